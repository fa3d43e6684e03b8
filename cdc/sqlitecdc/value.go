package sqlitecdc

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// Rows in the outbox are lists of values, as SQLite's quote() prints them, with commas between:
//
//	NULL            null
//	-7              integer
//	1.5, 1.0e+20    real; Inf, -Inf
//	'it''s'         text
//	X'00FF'         blob
//	?               not kept: longer than maxValue, or a text with a zero byte, which quote() can't print
//	=               the new value is the old one
//
// maxValue is in characters, or bytes of a blob. No name can be made of longer ones: tags have at most 512 bytes.
const maxValue = 1024

// A version is a table as it was when its triggers were made.
type version struct {
	cdc.Table
	bools  []bool // declared BOOLEAN or BOOL
	wanted bool
}

func newVersion(name string, columns []cdc.Column, wanted bool) *version {
	v := &version{Table: cdc.Table{Schema: "main", Name: name, Columns: columns}, bools: make([]bool, len(columns)), wanted: wanted}
	for i, c := range columns {
		v.bools[i] = strings.EqualFold(c.Type, "boolean") || strings.EqualFold(c.Type, "bool")
	}
	return v
}

// decode appends the values of a row to dst; their texts to buf. Old is the old row, for one that has "=" in it.
func (v *version) decode(row string, old, dst []cdc.Value, buf []byte) ([]cdc.Value, []byte, error) {
	for i := range v.Columns {
		if i > 0 {
			if row == "" || row[0] != ',' {
				return dst, buf, fmt.Errorf("a row of %s has %d values; want %d", v.Name, i, len(v.Columns))
			}
			row = row[1:]
		}
		var val cdc.Value
		var err error
		if val, row, buf, err = v.value(i, row, old, buf); err != nil {
			return dst, buf, fmt.Errorf("a row of %s: column %s: %w", v.Name, v.Columns[i].Name, err)
		}
		dst = append(dst, val)
	}
	if row != "" {
		return dst, buf, fmt.Errorf("a row of %s has more than %d values", v.Name, len(v.Columns))
	}
	return dst, buf, nil
}

var errValue = errors.New("not a value")

// value reads one value.
func (v *version) value(i int, row string, old []cdc.Value, buf []byte) (cdc.Value, string, []byte, error) {
	from := len(buf)
	known := func(rest string) (cdc.Value, string, []byte, error) {
		return cdc.Value{State: cdc.Known, Text: buf[from:len(buf):len(buf)]}, rest, buf, nil
	}
	bad := func() (cdc.Value, string, []byte, error) { return cdc.Value{}, row, buf, errValue }
	if row == "" {
		return bad()
	}
	switch row[0] {
	case '?':
		return cdc.Value{}, row[1:], buf, nil
	case '=':
		if i >= len(old) {
			return bad()
		}
		if old[i].State == cdc.Unknown {
			return cdc.Value{State: cdc.Unchanged}, row[1:], buf, nil
		}
		return old[i], row[1:], buf, nil
	case 'N':
		rest, ok := strings.CutPrefix(row, "NULL")
		if !ok {
			return bad()
		}
		return cdc.Value{State: cdc.Null}, rest, buf, nil
	case '\'':
		rest := row[1:]
		for {
			n := strings.IndexByte(rest, '\'')
			if n < 0 {
				return bad()
			}
			buf = append(buf, rest[:n]...)
			if rest = rest[n+1:]; rest == "" || rest[0] != '\'' {
				return known(rest)
			}
			buf, rest = append(buf, '\''), rest[1:]
		}
	case 'X':
		digits, rest, ok := strings.Cut(strings.TrimPrefix(row, "X'"), "'")
		if _, err := hex.DecodeString(digits); err != nil || !ok || !strings.HasPrefix(row, "X'") {
			return bad()
		}
		buf = append(buf, strings.ToLower(digits)...)
		return known(rest)
	}
	n := strings.IndexByte(row, ',')
	if n < 0 {
		n = len(row)
	}
	number, rest := row[:n], row[n:]
	if _, err := strconv.ParseInt(number, 10, 64); err == nil {
		switch {
		case v.bools[i] && number == "0":
			buf = append(buf, "false"...)
		case v.bools[i] && number == "1":
			buf = append(buf, "true"...)
		default:
			buf = append(buf, number...)
		}
		return known(rest)
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // newer ones print infinity as 9.0e+999
		return bad()
	}
	buf = appendReal(buf, f)
	return known(rest)
}

// appendReal writes a real as SQLite prints it, but with as many digits as it takes: 1.0, 0.30000000000000004, 1.0e+20.
func appendReal(b []byte, f float64) []byte {
	a := math.Abs(f)
	switch {
	case math.IsInf(f, 1):
		return append(b, "Inf"...)
	case math.IsInf(f, -1):
		return append(b, "-Inf"...)
	case a == 0:
		return append(b, "0.0"...)
	case a >= 1e-4 && a < 1e15:
		from := len(b)
		if b = strconv.AppendFloat(b, f, 'f', -1, 64); !strings.Contains(string(b[from:]), ".") {
			b = append(b, ".0"...)
		}
		return b
	}
	digits, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	if b = append(b, digits...); !strings.Contains(digits, ".") {
		b = append(b, ".0"...)
	}
	return append(append(b, 'e'), exponent...)
}
