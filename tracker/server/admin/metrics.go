package admin

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"ntrack/tracker/server"
)

// newRegistry returns the metrics of the tracker of s, of the process and of Go. ready says whether the tracker is
// ready.
func newRegistry(s *Server, ready func() bool) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector())
	if s.Server != nil {
		r.MustRegister(newCollector(s.Server, ready, s.Store == nil))
	}
	if s.DNS != nil {
		r.MustRegister(newDNSCollector(s.DNS))
	}
	if s.Store != nil {
		r.MustRegister(newStoreCollector(s.Store))
	}
	return r
}

// A collector has the metrics of a tracker. It reads the numbers when it is asked for them, so each
// scrape costs the same, however many peers there are. No label has anything from the network.
type collector struct {
	server *server.Server
	ready  func() bool
	table  bool // the tracker has its table in memory

	readyGauge, keys, peers, tableBytes, streams, conns, connBytes, limit *prometheus.Desc

	requests, refusals, accepted, connRefusals, evictions, panics, latency *prometheus.Desc
}

func newCollector(srv *server.Server, ready func() bool, table bool) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ntrack_"+name, help, labels, nil)
	}
	return &collector{
		server: srv, ready: ready, table: table,
		readyGauge:   desc("ready", "1 while the tracker serves, 0 once it is about to end, and while its shared table is away."),
		keys:         desc("keys", "Keys that have peers."),
		peers:        desc("peers", "Listed peers of all keys."),
		tableBytes:   desc("table_bytes", "Memory of the table of keys and peers."),
		streams:      desc("streams", "Open event streams."),
		conns:        desc("connections", "Open connections by state.", "state"),
		connBytes:    desc("connections_bytes", "Memory that open connections count for."),
		limit:        desc("limit", "The most that the tracker accepts. A limit that is off is missing.", "what"),
		requests:     desc("requests_total", "Requests by what the client wanted and by result.", "request", "result"),
		refusals:     desc("refusals_total", "Refused requests by reason.", "reason"),
		accepted:     desc("connections_accepted_total", "Accepted connections, without refused ones."),
		connRefusals: desc("connection_refusals_total", "Refused connections by reason.", "reason"),
		evictions:    desc("connection_evictions_total", "Connections without a request that made room for a new one."),
		panics:       desc("panics_total", "Panics. Each ended one connection, and is in the log."),
		latency:      desc("serve_duration_seconds", "Time to serve what had arrived at a worker, which bounds the time of each request."),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	ready := 0
	if c.ready() {
		ready = 1
	}
	gauge(c.readyGauge, ready)

	t := c.server.Tracker.Stats()
	if c.table {
		gauge(c.keys, t.Store.Keys)
		gauge(c.peers, t.Store.Peers)
		gauge(c.tableBytes, t.Store.Bytes)
	}
	gauge(c.streams, t.Streams)
	for request, n := range t.Served {
		counter(c.requests, n, request, "served")
	}
	for request, n := range t.Refused {
		counter(c.requests, n, request, "refused")
	}
	for reason, n := range t.Reasons {
		counter(c.refusals, n, reason)
	}

	s := c.server.Stats()
	for state, n := range map[string]int{"silent": s.Silent, "idle": s.Idle, "stream": s.Stream, "active": s.Active, "refused": s.Refused} {
		gauge(c.conns, n, state)
	}
	gauge(c.connBytes, int(s.Memory))
	counter(c.accepted, s.Accepted)
	for reason, n := range map[string]uint64{"max_conns": s.RefusedConns, "max_conns_per_addr": s.RefusedPerAddr, "rate": s.RefusedRate, "files": s.OutOfFiles} {
		counter(c.connRefusals, n, reason)
	}
	counter(c.evictions, s.Evicted)
	counter(c.panics, s.Panics)
	buckets, count := make(map[float64]uint64), uint64(0)
	for i, n := range s.Latency.Counts {
		if count += n; i < len(s.Latency.Bounds) {
			buckets[s.Latency.Bounds[i]] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(c.latency, count, s.Latency.Sum.Seconds(), buckets)

	limits := t.Store.Limits
	for what, n := range map[string]int{"table_bytes": int(limits.MaxBytes), "connections_bytes": int(s.MaxMemory),
		"peers_per_addr": limits.MaxPerAddr, "connections": s.MaxConns, "connections_per_addr": s.MaxConnsPerAddr} {
		if n > 0 {
			gauge(c.limit, n, what)
		}
	}
}
