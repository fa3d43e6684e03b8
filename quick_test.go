package freshet

import ("context";"testing";"time";"fmt";"github.com/freshetdev/freshet/store/memstore")

type user struct{ Name string; N int }

func TestQuick(t *testing.T) {
	ctx := context.Background()
	srv := memstore.NewServer(memstore.Options{})
	mk := func() (*Client, *Cache[int64, user], *int) {
		c, err := New(srv.Connect(), Options{})
		if err != nil { t.Fatal(err) }
		n := new(int); _ = n
		u, err := NewCache(c, Config[int64, user]{Name: "user", TTL: time.Hour, Tags: func(id int64) []string { return []string{Tag("users", id)} },
			Load: func(ctx context.Context, id int64, l *Load) (user, error) { *n++; return user{fmt.Sprint("u", id), *n}, nil }})
		if err != nil { t.Fatal(err) }
		c.mirror.WaitSynced(ctx)
		return c, u, n
	}
	a, ua, na := mk()
	defer a.Close()
	b, ub, nb := mk()
	defer b.Close()
	get := func(u *Cache[int64, user]) { r, err := u.Lookup(ctx, 7); t.Logf("%+v %v loads %d %d", r, err, *na, *nb) }
	get(ua); get(ua); get(ub); get(ub)
	t.Log(ub.Drop(ctx, 7))
	get(ua); get(ub)
	t.Log(a.DropTags(ctx, "users:7"))
	get(ub); get(ua)
	t.Log(ua.Clear(ctx))
	get(ub); get(ua)
	m, err := ua.GetMany(ctx, []int64{1,2,3,7})
	t.Log(m, err)
	srv.Del("user:7")
	get(ua)
	x, _ := a.Explain(ctx, "user:7")
	t.Log(x)
	t.Logf("%+v", a.Stats())
}
