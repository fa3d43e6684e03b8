package mysqlcdc

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A spot is a byte of the binary log.
type spot struct {
	file string
	off  uint64
}

// number is what orders the files of one server: the digits at the end of their names.
func (s spot) number() uint64 {
	n, _ := strconv.ParseUint(s.file[strings.LastIndexByte(s.file, '.')+1:], 10, 64)
	return n
}

// before reports whether s comes before o.
func (s spot) before(o spot) bool {
	if a, b := s.number(), o.number(); a != b {
		return a < b
	}
	return s.off < o.off
}

func (s spot) String() string { return s.file + ":" + strconv.FormatUint(s.off, 10) }

// validFile reports whether a name is one of a binary log.
func validFile(name string) bool {
	base, digits, ok := strings.Cut(name, ".")
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		base, digits = name[:i], name[i+1:]
	}
	_, err := strconv.ParseUint(digits, 10, 64)
	return ok && base != "" && err == nil && digits[0] != '+' && len(name) <= 512 && !strings.ContainsAny(name, "/\\\x00")
}

// A place is a position: after all that ends before the spot, and if there is a GTID, after the transaction with it too, which begins at the
// spot. Where a transaction ends isn't known when it begins.
type place struct {
	server  string // kind and identity: "mariadb-1", "mysql-<server_uuid>"
	spot           // file and offset
	created uint32 // of the file, by the server's clock, seconds
	gtid    string // "0-1-245", "<uuid>:77", or empty
}

// position returns the text of a place: server/file/created/offset/GTID, "-" for no GTID.
func (p place) position() cdc.Position {
	gtid := p.gtid
	if gtid == "" {
		gtid = "-"
	}
	return cdc.Position(p.server + "/" + url.PathEscape(p.file) + "/" + strconv.FormatUint(uint64(p.created), 10) + "/" + strconv.FormatUint(p.off, 10) + "/" + gtid)
}

// parsePlace reads what position wrote, and nothing else.
func parsePlace(pos cdc.Position) (p place, err error) {
	bad := func() (place, error) {
		return place{}, fmt.Errorf("mysqlcdc: position is %.80q; want server/file/created/offset/GTID, as in mariadb-1/binlog.000003/1767225600/4711/0-1-245", string(pos))
	}
	parts := strings.Split(string(pos), "/")
	if len(parts) != 5 || !validServer(parts[0]) {
		return bad()
	}
	file, err1 := url.PathUnescape(parts[1])
	created, err2 := strconv.ParseUint(parts[2], 10, 32)
	off, err3 := strconv.ParseUint(parts[3], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || !validFile(file) {
		return bad()
	}
	p = place{server: parts[0], spot: spot{file, off}, created: uint32(created)}
	if parts[4] != "-" {
		if !validGTID(p.server, parts[4]) {
			return bad()
		}
		p.gtid = parts[4]
	}
	if p.position() != pos { // leading zeros, signs, needless escapes
		return bad()
	}
	return p, nil
}

const (
	serverMariaDB = "mariadb-"
	serverMySQL   = "mysql-"
)

func validServer(s string) bool {
	if id, ok := strings.CutPrefix(s, serverMariaDB); ok {
		_, err := strconv.ParseUint(id, 10, 32)
		return err == nil
	}
	id, ok := strings.CutPrefix(s, serverMySQL)
	return ok && validUUID(id)
}

func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		switch dash := i == 8 || i == 13 || i == 18 || i == 23; {
		case dash != (c == '-'):
			return false
		case !dash && (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

// validGTID reports whether a text is a GTID of such a server: domain-server-number, or uuid:number.
func validGTID(server, s string) bool {
	number := func(s string, bits int) bool {
		n, err := strconv.ParseUint(s, 10, bits)
		return err == nil && strconv.FormatUint(n, 10) == s
	}
	if strings.HasPrefix(server, serverMariaDB) {
		parts := strings.Split(s, "-")
		return len(parts) == 3 && number(parts[0], 32) && number(parts[1], 32) && number(parts[2], 64)
	}
	uuid, n, ok := strings.Cut(s, ":")
	return ok && validUUID(uuid) && number(n, 63)
}
