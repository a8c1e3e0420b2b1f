package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"ntrack/bench/measure"
)

// An engine is a database server that keeps nothing on disk.
type engine struct {
	*measure.Child
	name   string // such as "Redis 7.0.15"
	url    string
	dir    string
	client rueidis.Client
}

// startEngine starts a database on a free port.
func (b *bench) startEngine() (*engine, error) {
	dir, err := os.MkdirTemp("", "ntrack-bench-*")
	if err != nil {
		return nil, err
	}
	e := &engine{dir: dir}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(b.engine, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "no")
	cmd.Stdout, cmd.Stderr = log, log
	if e.Child, err = measure.Spawn(cmd, b.cpus[0], b.cpus[0]); err != nil {
		return nil, err
	}
	e.url = fmt.Sprint("redis://127.0.0.1:", port)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if e.client, err = newClient(e.url); err == nil {
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			e.stop()
			return nil, fmt.Errorf("%s does not answer: %w\n%s", b.engine, err, text)
		}
	}
	info, err := e.info()
	if err != nil {
		e.stop()
		return nil, err
	}
	e.name = "Redis " + info["redis_version"]
	if v := info["valkey_version"]; v != "" {
		e.name = "Valkey " + v
	}
	b.report.Engine = e.name
	return e, nil
}

// newClient connects as a Store does.
func newClient(url string) (rueidis.Client, error) {
	opt, err := rueidis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	opt.DisableCache = true
	return rueidis.NewClient(opt)
}

func (e *engine) stop() {
	if e.client != nil {
		e.client.Close()
	}
	e.Kill()
	e.Stop()
	_ = os.RemoveAll(e.dir)
}

// info returns the lines of INFO, by name.
func (e *engine) info() (map[string]string, error) {
	text, err := e.client.Do(context.Background(), e.client.B().Info().Section("everything").Build()).ToString()
	if err != nil {
		return nil, err
	}
	lines := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			lines[name] = value
		}
	}
	return lines, nil
}

// A sample has what the database has done since it started.
type sample struct {
	at      time.Time
	cpu     time.Duration
	in, out float64 // bytes
	reads   float64 // system calls
	writes  float64
	used    float64            // bytes of memory
	conns   float64            // that are open
	calls   map[string]float64 // of each command
	usec    map[string]float64
}

func (e *engine) sample() (s sample, err error) {
	info, err := e.info()
	if err != nil {
		return s, err
	}
	number := func(text string) float64 {
		n, _ := strconv.ParseFloat(text, 64)
		return n
	}
	s.calls, s.usec = make(map[string]float64), make(map[string]float64)
	for name, value := range info {
		if command, ok := strings.CutPrefix(name, "cmdstat_"); ok { // calls=1,usec=2,...
			fields := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == '=' })
			s.calls[command], s.usec[command] = number(fields[1]), number(fields[3])
		}
	}
	s.in, s.out = number(info["total_net_input_bytes"]), number(info["total_net_output_bytes"])
	s.reads, s.writes = number(info["total_reads_processed"]), number(info["total_writes_processed"])
	s.used, s.conns = number(info["used_memory"]), number(info["connected_clients"])
	use, err := measure.UsageOf(e.PID)
	s.cpu, s.at = use.CPU, time.Now()
	return s, err
}
