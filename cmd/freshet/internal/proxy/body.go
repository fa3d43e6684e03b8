package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/freshetdev/freshet/observe"
)

// bodyPatience is how long a body of unknown length may take before it is taken for a stream
// and sent on as it comes. An API that writes its answer in chunks is done long before.
const bodyPatience = time.Second

// readBody reads a body to its end. If it turns out too large or too slow to be stored, rest yields the
// whole body from its beginning and reason says why; rest must be closed then. After an
// error the body is closed.
//
// length is the Content-Length, -1 if unknown. ctx bounds only the time in here, not rest.
func readBody(ctx context.Context, body io.ReadCloser, length, limit int64) (whole []byte, rest io.ReadCloser, reason observe.Reason, err error) {
	if length >= 0 {
		whole = make([]byte, length)
		_, err = io.ReadFull(body, whole)
		_ = body.Close() // nothing is written to it
		return whole, nil, "", err
	}

	chunks := readAhead(body)
	patience := time.NewTimer(bodyPatience)
	defer patience.Stop()
	for {
		select {
		case c := <-chunks.c:
			whole = append(whole, c.data...)
			if int64(len(whole)) > limit {
				chunks.push(c.err)
				return nil, chunks.after(whole), ReasonTooLarge, nil
			}
			if errors.Is(c.err, io.EOF) {
				_ = chunks.Close()
				return whole, nil, "", nil
			}
			if c.err != nil {
				_ = chunks.Close()
				return nil, nil, "", c.err
			}
		case <-patience.C:
			return nil, chunks.after(whole), ReasonStreaming, nil
		case <-ctx.Done():
			_ = chunks.Close()
			return nil, nil, "", ctx.Err()
		}
	}
}

// An aheadReader reads a body in a goroutine, one chunk ahead, so that waiting for it can be given up
// without losing the read under way. The goroutine ends with the body or at Close.
type aheadReader struct {
	body io.ReadCloser
	c    chan chunk

	closing sync.Once
	closed  chan struct{}

	first bytes.Reader // read before the chunks
	err   error        // after first: the end was seen already
	data  []byte       // rest of the current chunk
}

type chunk struct {
	data []byte
	err  error
}

func readAhead(body io.ReadCloser) *aheadReader {
	a := &aheadReader{body: body, c: make(chan chunk), closed: make(chan struct{})}
	go func() {
		for {
			data := make([]byte, 16<<10)
			n, err := body.Read(data)
			select {
			case a.c <- chunk{data[:n], err}:
			case <-a.closed:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

// after puts back what was read already.
func (a *aheadReader) after(first []byte) io.ReadCloser {
	a.first.Reset(first)
	return a
}

// push puts back an error that came with the last chunk.
func (a *aheadReader) push(err error) { a.err = err }

func (a *aheadReader) Read(p []byte) (int, error) {
	if a.first.Len() > 0 {
		return a.first.Read(p)
	}
	for len(a.data) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		select {
		case c := <-a.c:
			a.data, a.err = c.data, c.err
		case <-a.closed:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(p, a.data)
	a.data = a.data[n:]
	return n, nil
}

func (a *aheadReader) Close() error {
	var err error
	a.closing.Do(func() {
		close(a.closed)
		err = a.body.Close() // ends a Read under way
	})
	return err
}
