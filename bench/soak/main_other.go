//go:build !linux

package main

import "log"

func main() { log.Fatal("soak needs Linux: every address in 127.0.0.0/8 is one of this machine there") }
