//go:build !linux || !(amd64 || arm64)

package main

import "log"

func main() { log.Fatal("bench needs Linux on amd64 or arm64: it uses /proc and epoll") }
