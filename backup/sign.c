/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Signatures over the root hash of a manifest. What is signed begins with a text of our own, so that a signature made
 * here can never pass for one of something else.
 */
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/seed.h"

#define SECRET_MIN 16
#define SECRET_MAX 4096
#define KIND_HMAC "hmac-sha256"
#define KIND_ED25519 "ed25519"

static const char domain[] = "spindle backup manifest 1\n";

struct backup_key {
	EVP_PKEY *pkey;			/* Ed25519, or NULL */
	bool is_private;
	uint8_t secret[SECRET_MAX];
	size_t len;
};

static int load_pem(FILE *f, struct backup_key *k, struct sp_err *err)
{
	k->pkey = PEM_read_PrivateKey(f, NULL, NULL, NULL);
	k->is_private = k->pkey;
	if (!k->pkey) {
		rewind(f);
		k->pkey = PEM_read_PUBKEY(f, NULL, NULL, NULL);
	}
	if (!k->pkey)
		return sp_err_set(err, -EINVAL, "neither a private nor a public key that can be read");
	if (EVP_PKEY_get_base_id(k->pkey) != EVP_PKEY_ED25519)
		return sp_err_set(err, -ENOTSUP, "not an Ed25519 key (make one: openssl genpkey -algorithm ed25519)");
	return 0;
}

static int load(FILE *f, struct backup_key *k, struct sp_err *err)
{
	uint8_t rest;

	k->len = fread(k->secret, 1, sizeof(k->secret), f);
	if (k->len >= 11 && memcmp(k->secret, "-----BEGIN ", 11) == 0) {
		rewind(f);
		return load_pem(f, k, err);
	}
	if (k->len < SECRET_MIN || fread(&rest, 1, 1, f) == 1)
		return sp_err_set(err, -EINVAL, "a secret has %d to %d bytes", SECRET_MIN, SECRET_MAX);
	return 0;
}

int backup_key_load(const char *path, struct backup_key **ret, struct sp_err *err)
{
	FILE *f = fopen(path, "re");
	struct backup_key *k;
	int r;

	if (!f)
		return sp_err_set(err, -errno, "key %s: %s", path, strerror(errno));
	k = sp_zalloc(sizeof(*k));
	r = k ? load(f, k, err) : sp_err_set(err, -ENOMEM, "out of memory");
	fclose(f);
	if (r < 0) {
		backup_key_free(k);
		return sp_err_prefix(err, r, "key %s", path);
	}
	*ret = k;
	return 0;
}

void backup_key_free(struct backup_key *k)
{
	if (!k)
		return;
	EVP_PKEY_free(k->pkey);
	OPENSSL_cleanse(k, sizeof(*k));
	sp_free(k);
}

static void message(const uint8_t root[static 32], uint8_t ret[static sizeof(domain) - 1 + 32])
{
	memcpy(mempcpy(ret, domain, sizeof(domain) - 1), root, 32);
}

int backup_sign(const struct backup_key *k, const uint8_t root[static 32], char ret_kind[static 16],
		uint8_t ret_signature[static 64], size_t *ret_len, struct sp_err *err)
{
	uint8_t m[sizeof(domain) - 1 + 32];
	unsigned len = 0;
	EVP_MD_CTX *c;
	bool ok;

	message(root, m);
	snprintf(ret_kind, 16, "%s", k->pkey ? KIND_ED25519 : KIND_HMAC);
	*ret_len = k->pkey ? 64 : 32;
	if (!k->pkey)
		return HMAC(EVP_sha256(), k->secret, (int)k->len, m, sizeof(m), ret_signature, &len) && len == 32 ?
		       0 : sp_err_set(err, -ENOMEM, "cannot sign");
	if (!k->is_private)
		return sp_err_set(err, -EINVAL, "signing needs the private key, this is the public one");
	c = EVP_MD_CTX_new();
	ok = c && EVP_DigestSignInit(c, NULL, NULL, NULL, k->pkey) == 1 &&
	     EVP_DigestSign(c, ret_signature, ret_len, m, sizeof(m)) == 1;
	EVP_MD_CTX_free(c);
	return ok ? 0 : sp_err_set(err, -EIO, "cannot sign");
}

static bool right(const struct backup_key *k, const struct backup_manifest *b)
{
	uint8_t m[sizeof(domain) - 1 + 32], own[64];
	unsigned len = 0;
	EVP_MD_CTX *c;
	bool ok;

	message(b->root, m);
	if (SP_SEED_BUG(BACKUP_SIGNATURE_IGNORED))
		return true;
	if (!k->pkey)
		return b->signature_len == 32 &&
		       HMAC(EVP_sha256(), k->secret, (int)k->len, m, sizeof(m), own, &len) && len == 32 &&
		       CRYPTO_memcmp(own, b->signature, 32) == 0;
	c = EVP_MD_CTX_new();
	ok = c && EVP_DigestVerifyInit(c, NULL, NULL, NULL, k->pkey) == 1 &&
	     EVP_DigestVerify(c, b->signature, b->signature_len, m, sizeof(m)) == 1;
	EVP_MD_CTX_free(c);
	return ok;
}

int backup_sign_verify(const struct backup_key *k, const struct backup_manifest *m, struct sp_err *err)
{
	const char *kind = k->pkey ? KIND_ED25519 : KIND_HMAC;

	if (!m->is_signed)
		return sp_err_set(err, -EBADMSG, "not signed");
	if (strcmp(m->signature_kind, kind) != 0)
		return sp_err_set(err, -EBADMSG, "signed by %s, the key is for %s", m->signature_kind, kind);
	if (!right(k, m))
		return sp_err_set(err, -EBADMSG, "the signature is not one of this key");
	return 0;
}
