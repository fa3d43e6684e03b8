// Package testenv gives tests the real thing: Redis servers, alone, with Sentinel or as a Cluster, a TCP proxy that
// breaks links on purpose, and child processes.
//
// Everything started here ends with the test that started it, with its goroutines;
// on Linux the processes also die with a test binary that crashes. Nothing is ever skipped
// because a program is missing: the test fails and says how to install it.
package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"
)

// patience is how long a helper waits for a program to do what it surely will. Far
// longer than needed: two noisy cores may run several test binaries.
const patience = 20 * time.Second

// The ports of servers and proxies lie below the range from which Linux takes the ports
// of outgoing connections (32768 and up), so nobody can take one by
// accident while a server is down and about to come back on the same port.
const (
	minPort = 12000
	maxPort = 32767
)

// listen opens a TCP listener on a free port of our range.
func listen() (net.Listener, error) {
	var err error
	for range 100 {
		port := minPort + rand.IntN(maxPort-minPort+1)
		var l net.Listener
		if l, err = net.Listen("tcp", loopback(port)); err == nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("testenv: no free port between %d and %d: %w", minPort, maxPort, err)
}

func freePort() (int, error) {
	l, err := listen()
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
