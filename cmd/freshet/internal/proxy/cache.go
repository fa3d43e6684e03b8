package proxy

import (
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/codec"
)

// CacheOptions say how stored answers are kept.
type CacheOptions struct {
	TTL       time.Duration // how long an answer is fresh that doesn't ask for less
	Grace     time.Duration // how much longer it may be served, while it is refreshed or the origin fails
	Timeout   time.Duration // of a load
	MaxMemory int64         // in this process
}

// NewCache returns the cache for a [Proxy]. Its keys read "http:GET http://host/path".
func NewCache(c *freshet.Client, o CacheOptions) (*Cache, error) {
	return freshet.NewCache(c, freshet.Config[string, *Response]{
		Name:   "http",
		TTL:    o.TTL,
		Jitter: -1, // clients are told how long an answer is fresh: let it be the number they set
		Stale:  freshet.Stale{WhileRevalidate: o.Grace, IfError: o.Grace},
		Key:    func(key string) string { return key },
		Codec:  responseCodec{},
		Schema: responseFormat,

		LoadTimeout: o.Timeout,
		MaxBytes:    o.MaxMemory,
		MaxValue:    -1, // a Proxy has its own
		Weigh:       (*Response).size,
	})
}

// responseCodec stores answers in the bytes described in response.go.
type responseCodec struct{}

var _ codec.Codec[*Response] = responseCodec{}

func (responseCodec) Name() string { return "http" }

func (responseCodec) Append(dst []byte, v *Response) ([]byte, error) { return v.append(dst), nil }

func (responseCodec) Decode(data []byte) (*Response, error) { return decodeResponse(data) }
