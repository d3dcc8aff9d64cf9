package contracts

import "strings"

// Header carries a trace across the queue. It has the methods of OpenTelemetry's TextMapCarrier and the
// type of a NATS header, without importing either.
type Header map[string][]string

// Get returns the first value of key, in any case.
func (h Header) Get(key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	for k, v := range h {
		if strings.EqualFold(k, key) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

// Set replaces the values of key, in any case. NATS sends keys as they are spelled, and so does this.
func (h Header) Set(key, value string) {
	for k := range h {
		if strings.EqualFold(k, key) {
			delete(h, k)
		}
	}
	h[key] = []string{value}
}

// Keys lists the keys, in no order.
func (h Header) Keys() []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}
