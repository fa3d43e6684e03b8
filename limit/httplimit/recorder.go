package httplimit

import (
	"bufio"
	"io"
	"net"
	"net/http"
)

// A recorder notes what a handler sends, for Limit.Settle. What the writer below can do, it can do too: by Unwrap for
// [http.ResponseController], and as Flusher, Hijacker and so on for those who look for these.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func record(w http.ResponseWriter) (http.ResponseWriter, *recorder) {
	rec := &recorder{ResponseWriter: w}
	flusher, flushes := w.(http.Flusher)
	hijacker, hijacks := w.(http.Hijacker)
	reader, reads := w.(io.ReaderFrom)
	pusher, pushes := w.(http.Pusher)
	switch {
	case flushes && hijacks && reads: // HTTP/1
		return &recorder1{recorder: rec, Flusher: flusher, hijacker: hijacker, reader: reader}, rec
	case flushes && pushes: // HTTP/2
		return &recorder2{recorder: rec, Flusher: flusher, Pusher: pusher}, rec
	case flushes && hijacks:
		return &recorderHijack{recorder: rec, Flusher: flusher, hijacker: hijacker}, rec
	case flushes:
		return &recorderFlush{recorder: rec, Flusher: flusher}, rec
	}
	return rec, rec
}

func (rec *recorder) WriteHeader(status int) {
	if rec.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

func (rec *recorder) Write(b []byte) (int, error) {
	n, err := rec.ResponseWriter.Write(b)
	rec.wrote(int64(n))
	return n, err
}

func (rec *recorder) wrote(n int64) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	rec.bytes += n
}

func (rec *recorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

func (rec *recorder) statusSent() int {
	if rec.status == 0 {
		return http.StatusOK
	}
	return rec.status
}

func (rec *recorder) hijack(h http.Hijacker) (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := h.Hijack()
	if err == nil && rec.status == 0 {
		rec.status = http.StatusSwitchingProtocols // it is written past the recorder
	}
	return conn, rw, err
}

type recorder1 struct {
	*recorder
	http.Flusher
	hijacker http.Hijacker
	reader   io.ReaderFrom
}

func (rec *recorder1) Hijack() (net.Conn, *bufio.ReadWriter, error) { return rec.hijack(rec.hijacker) }

func (rec *recorder1) ReadFrom(src io.Reader) (int64, error) {
	n, err := rec.reader.ReadFrom(src)
	rec.wrote(n)
	return n, err
}

type recorder2 struct {
	*recorder
	http.Flusher
	http.Pusher
}

type recorderHijack struct {
	*recorder
	http.Flusher
	hijacker http.Hijacker
}

func (rec *recorderHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return rec.hijack(rec.hijacker)
}

type recorderFlush struct {
	*recorder
	http.Flusher
}
