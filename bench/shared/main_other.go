//go:build !linux

package main

import "log"

func main() { log.Fatal("bench/shared needs Linux: it uses /proc") }
