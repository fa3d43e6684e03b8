package mysqlcdc

import (
	"bytes"
	"slices"
	"strings"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/freshetdev/freshet/cdc"
)

// A table is one as the last table map event has it.
type table struct {
	name    tableName
	print   []byte // what the event said
	wanted  bool
	message bool       // freshet_messages
	told    *cdc.Table // with the columns if they have names, else without
	columns []column   // none if they have no names that are proven
	broken  bool       // has a type that isn't read: its changes are told as a truncate
}

// A column is how the values of a column become text.
type column struct {
	name     string
	form     form
	unsigned bool
	width    int      // of fixed bytes
	digits   int      // of fractions of a second
	labels   []string // of enums and sets
	charset  string   // of text
}

// A form is what a column holds.
type form uint8

const (
	unclear form = iota // the value is never known
	integer
	middleInt // of 3 bytes
	float
	double
	decimal
	bit
	year
	moment // date, datetime, timestamp
	clock  // time
	enum
	set
	letters // of charset
	octets  // hex
	fixed   // hex, of width bytes
	document
	uuid
	inet4
	inet6
)

// binaryCollation is the collation of bytes.
const binaryCollation = 63

// readable reports whether go-mysql can read rows of a table: an unknown type makes what follows it wrong.
func readable(m *replication.TableMapEvent) bool {
	if len(m.ColumnType) != int(m.ColumnCount) || len(m.ColumnMeta) != int(m.ColumnCount) {
		return false
	}
	for _, t := range m.ColumnType {
		switch t {
		case mysql.MYSQL_TYPE_TINY, mysql.MYSQL_TYPE_SHORT, mysql.MYSQL_TYPE_INT24, mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_LONGLONG,
			mysql.MYSQL_TYPE_FLOAT, mysql.MYSQL_TYPE_DOUBLE, mysql.MYSQL_TYPE_NEWDECIMAL, mysql.MYSQL_TYPE_BIT, mysql.MYSQL_TYPE_YEAR,
			mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_DATETIME2, mysql.MYSQL_TYPE_TIMESTAMP2, mysql.MYSQL_TYPE_TIME2,
			mysql.MYSQL_TYPE_STRING, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING, mysql.MYSQL_TYPE_BLOB,
			mysql.MYSQL_TYPE_JSON, mysql.MYSQL_TYPE_GEOMETRY, mysql.MYSQL_TYPE_VECTOR, mysql.MYSQL_TYPE_NULL:
		default:
			// Compressed columns of MariaDB, and the times of before MariaDB 10.1, whose size isn't told.
			return false
		}
	}
	return true
}

// realType is the type of a column, with the enums and sets that are written as strings.
func realType(m *replication.TableMapEvent, i int) (typ byte, width int) {
	typ = m.ColumnType[i]
	if typ != mysql.MYSQL_TYPE_STRING {
		return typ, int(m.ColumnMeta[i])
	}
	b0, b1 := byte(m.ColumnMeta[i]>>8), int(m.ColumnMeta[i]&0xff)
	switch {
	case b0 == mysql.MYSQL_TYPE_ENUM || b0 == mysql.MYSQL_TYPE_SET:
		return b0, b1
	case m.ColumnMeta[i] < 256:
		return typ, b1
	}
	return typ, b1 | int(b0&0x30^0x30)<<4
}

// fits reports whether columns of information_schema can be those of the event.
func fits(m *replication.TableMapEvent, infos []columnInfo) bool {
	if len(infos) != int(m.ColumnCount) {
		return false
	}
	for i, c := range infos {
		typ, _ := realType(m, i)
		ok := true
		switch c.dataType {
		case "tinyint":
			ok = typ == mysql.MYSQL_TYPE_TINY
		case "smallint":
			ok = typ == mysql.MYSQL_TYPE_SHORT
		case "mediumint":
			ok = typ == mysql.MYSQL_TYPE_INT24
		case "int":
			ok = typ == mysql.MYSQL_TYPE_LONG
		case "bigint":
			ok = typ == mysql.MYSQL_TYPE_LONGLONG
		case "decimal":
			ok = typ == mysql.MYSQL_TYPE_NEWDECIMAL
		case "enum":
			ok = typ == mysql.MYSQL_TYPE_ENUM
		case "set":
			ok = typ == mysql.MYSQL_TYPE_SET
		case "varchar", "varbinary":
			ok = typ == mysql.MYSQL_TYPE_VARCHAR || typ == mysql.MYSQL_TYPE_VAR_STRING
		case "char", "binary", "uuid", "inet4", "inet6":
			ok = typ == mysql.MYSQL_TYPE_STRING
		case "datetime":
			ok = typ == mysql.MYSQL_TYPE_DATETIME2
		case "timestamp":
			ok = typ == mysql.MYSQL_TYPE_TIMESTAMP2
		case "date":
			ok = typ == mysql.MYSQL_TYPE_DATE
		}
		if !ok {
			return false
		}
	}
	return true
}

// needsCatalog reports whether the event doesn't say all: it has no names, or bytes that may be a UUID or an address of MariaDB.
func needsCatalog(m *replication.TableMapEvent, mariadb bool) bool {
	if len(m.ColumnName) == 0 {
		return true
	}
	if !mariadb {
		return false
	}
	collations := m.CollationMap()
	for i := range m.ColumnType {
		if mayBeOther(m, i, collations) {
			return true
		}
	}
	return false
}

// mayBeOther reports whether a column is bytes of the size of a UUID, or of an address.
func mayBeOther(m *replication.TableMapEvent, i int, collations map[int]uint64) bool {
	typ, width := realType(m, i)
	collation, known := collations[i]
	return typ == mysql.MYSQL_TYPE_STRING && (width == 16 || width == 4) && (!known || collation == binaryCollation)
}

// newTable makes a table of its event. infos are its columns from information_schema, nil if there are none that are proven; without
// names from anywhere the table has no columns.
func newTable(name tableName, m *replication.TableMapEvent, infos []columnInfo, sets map[uint64]string, mariadb bool) *table {
	t := &table{name: name, told: &cdc.Table{Schema: name.schema, Name: name.name}, broken: !readable(m)}
	named := len(m.ColumnName) == int(m.ColumnCount)
	if infos != nil && !fits(m, infos) {
		infos = nil
	}
	if t.broken || !named && infos == nil {
		return t
	}
	unsigned, collations, labelCollations := m.UnsignedMap(), m.CollationMap(), m.EnumSetCollationMap()
	labels := m.EnumStrValueMap()
	sLabels := m.SetStrValueMap()
	keys := make(map[uint64]bool)
	for _, k := range m.PrimaryKey {
		keys[k] = true
	}
	for i := range m.ColumnType {
		var c column
		typ, width := realType(m, i)
		c.width = width
		if named {
			c.name = string(m.ColumnName[i])
			c.unsigned = unsigned[i]
			c.charset = "binary"
			if id, ok := collations[i]; ok && id != binaryCollation {
				c.charset = sets[id]
			}
			for _, l := range slices.Concat(labels[i], sLabels[i]) {
				// Labels are in the character set of the column.
				text, ok := inUTF8(nil, sets[labelCollations[i]], l)
				if !ok {
					text = nil
				}
				c.labels = append(c.labels, string(text))
			}
			if len(collations) == 0 && (typ == mysql.MYSQL_TYPE_STRING || typ == mysql.MYSQL_TYPE_VARCHAR || typ == mysql.MYSQL_TYPE_BLOB) {
				c.charset = "" // not told
			}
		}
		if infos != nil {
			in := infos[i]
			if named && in.name != c.name {
				infos = nil
			} else if !named {
				c.name, c.unsigned, c.labels = in.name, in.unsigned(), in.labels()
				if c.charset = in.charset; c.charset == "" {
					c.charset = "binary"
				}
			}
		}
		c.form = formOf(typ, &c)
		if mariadb && (c.form == octets || c.form == fixed) && mayBeOther(m, i, collations) {
			c.form = unclear
			if infos != nil {
				switch infos[i].dataType {
				case "uuid":
					c.form = uuid
				case "inet6":
					c.form = inet6
				case "inet4":
					c.form = inet4
				default:
					c.form = fixed
				}
			}
		}
		if typ == mysql.MYSQL_TYPE_DATETIME2 || typ == mysql.MYSQL_TYPE_TIMESTAMP2 || typ == mysql.MYSQL_TYPE_TIME2 {
			c.digits = int(m.ColumnMeta[i])
		}
		t.columns = append(t.columns, c)
		_, nullable := m.Nullable(i)
		t.told.Columns = append(t.told.Columns, cdc.Column{Name: c.name, Nullable: nullable})
	}
	return t
}

func formOf(typ byte, c *column) form {
	switch typ {
	case mysql.MYSQL_TYPE_TINY, mysql.MYSQL_TYPE_SHORT, mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_LONGLONG:
		return integer
	case mysql.MYSQL_TYPE_INT24:
		return middleInt
	case mysql.MYSQL_TYPE_FLOAT:
		return float
	case mysql.MYSQL_TYPE_DOUBLE:
		return double
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		return decimal
	case mysql.MYSQL_TYPE_BIT:
		return bit
	case mysql.MYSQL_TYPE_YEAR:
		return year
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_DATETIME2, mysql.MYSQL_TYPE_TIMESTAMP2:
		return moment
	case mysql.MYSQL_TYPE_TIME2:
		return clock
	case mysql.MYSQL_TYPE_ENUM:
		return enum
	case mysql.MYSQL_TYPE_SET:
		return set
	case mysql.MYSQL_TYPE_JSON:
		return document
	case mysql.MYSQL_TYPE_GEOMETRY, mysql.MYSQL_TYPE_VECTOR:
		return octets
	case mysql.MYSQL_TYPE_STRING, mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING, mysql.MYSQL_TYPE_BLOB:
		switch {
		case c.charset == "":
			return unclear
		case c.charset != "binary":
			return letters
		case typ == mysql.MYSQL_TYPE_STRING:
			return fixed
		}
		return octets
	}
	return unclear
}

// same reports whether the event is what the table was made of.
func (t *table) same(print []byte) bool { return bytes.Equal(t.print, print) }

// row appends the values of one row image to dst, and their text to buf. A column that the image skips is what it was, if old says that, else
// it has the state that is given.
func (t *table) row(dst []cdc.Value, buf []byte, values []any, skipped []int, old []cdc.Value, absent cdc.State) ([]cdc.Value, []byte) {
	for i := range t.columns {
		v := cdc.Value{State: cdc.Null}
		switch {
		case i >= len(values) || slices.Contains(skipped, i):
			if v.State = absent; i < len(old) && old[i].State != cdc.Unknown {
				v = old[i]
			}
		case values[i] != nil:
			from := len(buf)
			var ok bool
			if buf, ok = t.columns[i].text(buf, values[i]); ok {
				v = cdc.Value{State: cdc.Known, Text: buf[from:len(buf):len(buf)]}
			} else {
				buf, v.State = buf[:from], cdc.Unknown
			}
		}
		dst = append(dst, v)
	}
	return dst, buf
}

// fold makes a name of a statement one as events have it.
func (v *server) fold(t tableName) tableName {
	if v.folds {
		return tableName{strings.ToLower(t.schema), strings.ToLower(t.name)}
	}
	return t
}
