package testenv

import (
	"bytes"
	"strconv"
)

// A splitter finds the push frames in what a RESP3 server sends. It passes on everything else at
// once, byte by byte, and holds back only an unfinished push. A stream that is
// not RESP (another protocol behind the proxy) is passed on as it is from the first
// byte that can't be.
//
// A frame is a flat count of elements that are still to come: an aggregate adds its
// elements, so no stack is needed.
//
//   - - : , # ( _      a line
//     $ ! =              a line with a length, that many bytes, CR LF
//   - ~ >              a line with a count, that many elements
//     %                  likewise, twice as many
//     |                  likewise, and is itself no element
type splitter struct {
	push func(frame []byte) (copies int) // how often to pass the frame on

	raw  bool   // not RESP: everything passes
	need int    // elements that the frame still lacks; 0 between frames
	line []byte // the unfinished line of an element
	bulk int    // bytes of a string that are still to come, with CR LF
	held []byte // the unfinished push
	hold bool
}

// maxLine bounds a line. Errors and simple strings are the longest there are.
const maxLine = 64 << 10

// feed takes what came and appends to dst what is to be passed on.
func (s *splitter) feed(dst, in []byte) []byte {
	for len(in) > 0 && !s.raw {
		if s.bulk > 0 {
			n := min(s.bulk, len(in))
			dst = s.emit(dst, in[:n])
			in = in[n:]
			if s.bulk -= n; s.bulk == 0 {
				s.need--
				dst = s.endFrame(dst)
			}
			continue
		}
		if s.need == 0 { // a new frame begins
			s.need = 1
			s.hold = in[0] == '>'
		}
		n := bytes.IndexByte(in, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(in)
		}
		s.line = append(s.line, in[:n]...)
		dst = s.emit(dst, in[:n])
		in = in[n:]
		if !whole && len(s.line) > maxLine || !s.known(s.line[0]) || whole && !s.element() {
			s.raw = true
			break
		}
		if whole {
			s.line = s.line[:0]
			dst = s.endFrame(dst)
		}
	}
	if s.raw {
		dst = append(dst, s.held...)
		s.held = nil
		dst = append(dst, in...)
	}
	return dst
}

// emit passes b on, or keeps it while a push is held back.
func (s *splitter) emit(dst, b []byte) []byte {
	if s.hold {
		s.held = append(s.held, b...)
		return dst
	}
	return append(dst, b...)
}

// endFrame passes a complete push on as often as the filter says.
func (s *splitter) endFrame(dst []byte) []byte {
	if s.need > 0 || s.bulk > 0 || !s.hold {
		return dst
	}
	for range s.push(s.held) {
		dst = append(dst, s.held...)
	}
	s.held, s.hold = s.held[:0], false
	return dst
}

func (s *splitter) known(kind byte) bool {
	return bytes.IndexByte([]byte("+-:,#(_$!=*~>%|"), kind) >= 0
}

// element counts the element that the complete line begins. It reports false if it is
// none that a Redis server sends.
func (s *splitter) element() bool {
	body, ok := bytes.CutSuffix(s.line[1:], []byte("\r\n"))
	if !ok {
		return false
	}
	kind := s.line[0]
	if bytes.IndexByte([]byte("+-:,#(_"), kind) >= 0 {
		s.need--
		return true
	}
	n, err := strconv.Atoi(string(body))
	if err != nil || n < -1 || n > 1<<30 {
		return false
	}
	switch {
	case n == -1: // the nil of RESP2
		s.need--
	case kind == '$' || kind == '!' || kind == '=':
		s.bulk = n + len("\r\n") // the element ends with its last byte
	case kind == '|':
		s.need += 2 * n
	case kind == '%':
		s.need += 2*n - 1
	default:
		s.need += n - 1
	}
	return true
}
