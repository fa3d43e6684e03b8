package codec

import "bytes"

// Bytes returns the codec that stores byte slices as they are. Its name is "raw".
// Decode copies; an empty slice and nil both come back as an empty slice.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) Name() string { return "raw" }

func (bytesCodec) Append(dst, v []byte) ([]byte, error) { return append(dst, v...), nil }

func (bytesCodec) Decode(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return []byte{}, nil
	}
	return bytes.Clone(data), nil
}

// String returns the codec that stores strings as they are, valid UTF-8 or not.
// Its name is "raw".
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

func (stringCodec) Name() string { return "raw" }

func (stringCodec) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }

func (stringCodec) Decode(data []byte) (string, error) { return string(data), nil }
