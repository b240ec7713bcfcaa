// SPDX-License-Identifier: BSD-2-Clause

// A QMP client that is not ours (github.com/digitalocean/go-qemu) talks to a machine: vm_qmp.sh.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(m *qmp.SocketMonitor, command string, arguments interface{}) string {
	line, err := json.Marshal(qmp.Command{Execute: command, Args: arguments})
	must(err)
	answer, err := m.Run(line)
	if err != nil {
		return "error: " + err.Error()
	}
	var r struct {
		Return json.RawMessage `json:"return"`
	}
	must(json.Unmarshal(answer, &r))
	return string(r.Return)
}

func next(events <-chan qmp.Event) string {
	select {
	case e := <-events:
		if e.Timestamp.Seconds == 0 {
			return "no time"
		}
		return e.Event
	case <-time.After(10 * time.Second):
		return "no event"
	}
}

func main() {
	m, err := qmp.NewSocketMonitor("unix", os.Args[1], 5*time.Second)
	must(err)
	must(m.Connect())
	fmt.Println("version", m.Version.QEMU.Major)
	unread, err := m.Events(nil)
	must(err)
	events := make(chan qmp.Event, 100) // the package waits for who reads them before it takes an answer
	go func() {
		for e := range unread {
			events <- e
		}
	}()
	fmt.Println(run(m, "query-status", nil))
	fmt.Println(run(m, "query-name", nil))
	fmt.Println(run(m, "stop", nil), next(events))
	fmt.Println(run(m, "query-status", nil))
	fmt.Println(run(m, "cont", nil), next(events))
	fmt.Println(run(m, "device_add", map[string]string{"driver": "disk", "spec": os.Args[2]}))
	fmt.Println(run(m, "block_resize", map[string]interface{}{"device": "scsi0:0", "size": 100663296}))
	fmt.Println(run(m, "device_del", map[string]string{"id": "scsi0:0"}), next(events))
	fmt.Println(run(m, "device_del", map[string]string{"id": "scsi0:0"}))
	fmt.Println(run(m, "fly", nil))
	fmt.Println(run(m, "quit", nil), next(events))
}
