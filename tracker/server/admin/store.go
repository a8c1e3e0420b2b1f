package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"ntrack/tracker/store/valkey"
)

// A storeCollector has the metrics of a store in a database.
type storeCollector struct {
	stats func() valkey.Stats

	up, peers, trackers, held, watched, inFlight, calls, latency *prometheus.Desc
}

func newStoreCollector(stats func() valkey.Stats) *storeCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ntrack_store_"+name, help, labels, nil)
	}
	return &storeCollector{
		stats:    stats,
		up:       desc("up", "1 while the database answers."),
		peers:    desc("peers", "Listed peers of all trackers that share the table, as an estimate."),
		trackers: desc("trackers", "Trackers that share the table."),
		held:     desc("held_peers", "Peers that event streams of this tracker hold."),
		watched:  desc("watched_keys", "Keys that event streams of this tracker follow."),
		inFlight: desc("calls_in_flight", "Calls that wait for the database."),
		calls:    desc("calls_total", "Calls of the database by result.", "result"),
		latency:  desc("call_duration_seconds", "Time of the calls that the database answered."),
	}
}

// Describe implements [prometheus.Collector].
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements [prometheus.Collector].
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	st, up := c.stats(), 0
	if st.Up() {
		up = 1
	}
	for d, v := range map[*prometheus.Desc]int{
		c.up: up, c.peers: st.Peers, c.trackers: st.Trackers, c.held: st.Held, c.watched: st.Watched, c.inFlight: st.InFlight,
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	buckets, count := make(map[float64]uint64), uint64(0)
	bounds := valkey.RoundTripBounds()
	for i, n := range st.RoundTrips {
		if count += uint64(n); i < len(bounds) {
			buckets[bounds[i].Seconds()] = count
		}
	}
	ch <- prometheus.MustNewConstHistogram(c.latency, count, st.RoundTripTime.Seconds(), buckets)
	for result, n := range map[string]uint64{"answered": count, "unavailable": uint64(st.Unavailable), "full": uint64(st.Full)} {
		ch <- prometheus.MustNewConstMetric(c.calls, prometheus.CounterValue, float64(n), result)
	}
}
