//go:build !linux

package main

import "log"

func main() { log.Fatal("attack needs Linux: it uses /proc, epoll and control groups") }
