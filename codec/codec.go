// Package codec turns values into bytes and back: the codecs, the compression of
// what they wrote, and the fingerprint that tells one shape of a type from another.
//
// A stored entry carries the codec's name and the fingerprint of the value's type. An
// entry with another name or fingerprint than the reader's is a miss, so a deployment
// that changes a type never decodes the bytes of the old one.
package codec

// A Codec turns values of one type into bytes and back. It must be safe for
// concurrent use.
type Codec[V any] interface {
	// Name is stored with each value. A codec whose bytes mean something else than
	// they did gets a new name.
	Name() string

	// Append appends the bytes of v to dst and returns the extended slice, like the
	// built-in append. The result may use dst's memory and belongs to the caller: Append keeps
	// neither. It doesn't change v. After an error the result is dst as it was given.
	Append(dst []byte, v V) ([]byte, error)

	// Decode returns the value that data stands for. It refuses data with anything
	// before or after the value. data belongs to the caller, who may overwrite it: unless a codec
	// documents otherwise, neither Decode nor the value keeps a part of it.
	Decode(data []byte) (V, error)
}

// An IntoDecoder is a [Codec] that can also decode into memory that it is given, which saves a cache one
// allocation for each read of the shared level.
type IntoDecoder[V any] interface {
	Codec[V]

	// DecodeInto is Decode into *v, which is zero before, and zero after an error.
	DecodeInto(v *V, data []byte) error
}
