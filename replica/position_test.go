package replica

import (
	"strings"
	"testing"
)

func TestPositions(t *testing.T) {
	const good = "7312404012/1/A/16B3748"
	p, err := ParsePosition(good)
	if want := (Position{7312404012, 1, 0xA016B3748}); p != want || err != nil {
		t.Errorf("%s is %+v, %v; want %+v", good, p, err, want)
	}
	for _, bad := range []string{"", "1/1/0", "1/1/0/0/0", "01/1/0/0", "1/+1/0/0", "1/1/0/a", "1/1/0/123456789", "1/4294967296/0/0", "x/1/0/0", " 1/1/0/0", "1/1/0/0 "} {
		if p, err := ParsePosition(bad); err == nil {
			t.Errorf("%q is %v; want an error", bad, p)
		}
	}
	if _, err := ParsePosition(strings.Repeat("9", 1000)); err == nil || len(err.Error()) > 200 {
		t.Errorf("got %v; want a short error", err)
	}

	shows := func(replica, end Position, want bool) {
		t.Helper()
		if got := replica.shows(end); got != want {
			t.Errorf("%v shows %v: %v; want %v", replica, end, got, want)
		}
	}
	shows(Position{1, 1, 10}, Position{1, 1, 10}, true)
	shows(Position{1, 1, 11}, Position{1, 1, 10}, true)
	shows(Position{1, 1, 9}, Position{1, 1, 10}, false)
	shows(Position{1, 1, 11}, Position{1, 2, 10}, false) // an old timeline, far ahead
	shows(Position{1, 2, 11}, Position{1, 1, 10}, false) // the primary is the old one
	shows(Position{2, 1, 11}, Position{1, 1, 10}, false)
}

func TestAnswersOfServers(t *testing.T) {
	primary := func(text string, want uint64) {
		t.Helper()
		p, err := parsePrimary(text)
		if err != nil || p != (Position{7, 26, want}) {
			t.Errorf("%s is %v, %v; want LSN %X", text, p, err, want)
		}
	}
	primary("7/0000001A/0/3000148/8192", 0x3000148)
	primary("7/0000001A/0/00002018/8192", 0x2000) // behind a page's header: nothing can be replayed up to there
	primary("7/0000001A/1/28/8192", 0x100000000)  // behind a file's header
	primary("7/0000001A/0/2018/16384", 0x2018)    // in the middle of a larger page
	for _, bad := range []string{"", "7/1/0/0", "7/1/0/0/0", "7/1/0/0/x", "8192"} {
		if p, err := parsePrimary(bad); err == nil {
			t.Errorf("%q is %v; want an error", bad, p)
		}
	}
	p, isolation, err := parseReplica("7/1a/0/2018/repeatable read")
	if p != (Position{7, 26, 0x2018}) || isolation != "repeatable read" || err != nil {
		t.Errorf("got %v, %q, %v", p, isolation, err)
	}
	for bad, want := range map[string]string{"primary/read committed": "no standby", "nothing/read committed": "position is", "": "position is"} {
		if _, _, err := parseReplica(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error with %q", bad, err, want)
		}
	}
}

func TestTokens(t *testing.T) {
	tok, err := NewToken("shop-db", Position{7, 2, 0x16B3748})
	if err != nil || tok.String() != "shop-db@7/2/0/16B3748" || tok.Source() != "shop-db" || tok.Position().LSN != 0x16B3748 {
		t.Fatalf("got %v, %v", tok, err)
	}
	for mark, want := range map[string]bool{
		"7/2/0/16B3748": true, "7/2/0/16B3749": true, "7/2/0/16B3747": false, "7/3/0/0": true, "7/1/F/0": false, "8/2/0/16B3748": false,
		"": false, "garbage": false,
	} {
		if got := tok.Covered(mark); got != want {
			t.Errorf("covered at %q: %v; want %v", mark, got, want)
		}
	}
	for _, bad := range []string{"", "shop", "shop@", "@7/2/0/1", "sh op@7/2/0/1", "shop@7/2/0/1@", "shop@7/2/0/01", strings.Repeat("s", 101) + "@7/2/0/1"} {
		if tok, err := ParseToken(bad); err == nil {
			t.Errorf("%q is %v; want an error", bad, tok)
		}
	}
	if (Token{}).String() != "" || (Token{}).Covered("7/2/0/1") {
		t.Error("the zero token says something")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("shop-db@7312404012/1/0/16B3748")
	f.Add("a@0/0/0/0")
	f.Add("@")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := ParseToken(text)
		if err != nil {
			return
		}
		if tok.String() != text {
			t.Errorf("%q is %q again", text, tok)
		}
		if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._@/") != "" || len(text) > 200 {
			t.Errorf("%q doesn't belong into a cookie", text)
		}
		if pos := tok.Position().String(); !tok.Covered(pos) {
			t.Errorf("%q isn't covered at %q", text, pos)
		}
	})
}
