/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_EXAMPLES_SQLITE_WRITER_H
#define SPINDLE_EXAMPLES_SQLITE_WRITER_H

/* Until @stop_fd is readable: 0, or negative errno, told on standard error. @vfs NULL: files of the host. */
int sqlite_writer_run(const char *socket, const char *database, const char *vfs, int stop_fd);

#endif
