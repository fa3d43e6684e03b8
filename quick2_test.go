package freshet

import ("context";"testing";"time";"fmt";"github.com/freshetdev/freshet/internal/testenv";"sync/atomic")

func TestQuickRedis(t *testing.T) {
	ctx := context.Background()
	srv := testenv.Redis(t)
	mk := func() (*Client, *Cache[int64, user], *atomic.Int32) {
		t0 := time.Now()
		c, err := Open(ctx, srv.URL(), Options{})
		if err != nil { t.Fatal(err) }
		t.Log("open took", time.Since(t0))
		n := new(atomic.Int32)
		u, err := NewCache(c, Config[int64, user]{Name: "user", TTL: time.Hour, Tags: func(id int64) []string { return []string{Tag("users", id)} },
			Load: func(ctx context.Context, id int64, l *Load) (user, error) { return user{fmt.Sprint("u", id), int(n.Add(1))}, nil }})
		if err != nil { t.Fatal(err) }
		return c, u, n
	}
	a, ua, na := mk()
	defer a.Close()
	b, ub, nb := mk()
	defer b.Close()
	get := func(u *Cache[int64, user]) { r, err := u.Lookup(ctx, 7); t.Logf("%+v %v loads %d %d", r, err, na.Load(), nb.Load()) }
	get(ua); get(ua); get(ub); get(ub)
	t.Log(ub.Drop(ctx, 7))
	get(ub); time.Sleep(5*time.Millisecond); get(ua)
	t.Log(a.DropTags(ctx, "users:7"))
	get(ua); time.Sleep(5*time.Millisecond); get(ub); 
	t.Log(ua.Clear(ctx))
	get(ub); get(ua)
	m, err := ua.GetMany(ctx, []int64{1,2,3,7})
	t.Log(m, err)
	t.Log(srv.CLI(t, "del", "user:7"))
	time.Sleep(5*time.Millisecond)
	get(ua)
	t.Log(srv.CLI(t, "flushall"))
	time.Sleep(5*time.Millisecond)
	get(ua)
	time.Sleep(150*time.Millisecond)
	get(ub)
	get(ub)
	get(ua)
	x, _ := a.Explain(ctx, "user:7")
	t.Log(x)
	t.Logf("%+v", a.Stats())
}
