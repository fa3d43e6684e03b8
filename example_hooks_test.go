package freshet_test

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/observe"
)

// Hooks tell what happens. observe.Slog writes it all to a log; here only what concerns
// entries is taken, with keys in the clear and without times, to be the same in every run.
func ExampleOptions_hooks() {
	ctx := context.Background()
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.TimeKey, "took", "age", "bytes":
				return slog.Attr{}
			}
			return a
		},
	}))
	all := observe.Slog(logger, observe.SlogOptions{PlainKeys: true})
	entries := observe.Hooks{Hit: all.Hit, Miss: all.Miss, Load: all.Load, Fill: all.Fill}

	client, err := freshet.Open(ctx, "memory:", freshet.Options{Hooks: entries})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	names, err := freshet.NewCache(client, freshet.Config[int, string]{
		Name: "name", TTL: time.Hour,
		Load: func(_ context.Context, id int, _ *freshet.Load) (string, error) {
			if id == 8 {
				return "", errors.New("connection refused")
			}
			return "Ada", nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}

	_, _ = names.Get(ctx, 7)
	_, _ = names.Get(ctx, 7)
	_, _ = names.Get(ctx, 8)

	// Output:
	// level=DEBUG msg="cache miss" cache=name key=name:7 at=l1 reason=absent
	// level=DEBUG msg="cache miss" cache=name key=name:7 at=l2 reason=absent
	// level=DEBUG msg=loaded cache=name key=name:7 refresh=false
	// level=DEBUG msg=stored cache=name key=name:7
	// level=DEBUG msg="cache hit" cache=name key=name:7 at=l1 stale=false negative=false
	// level=DEBUG msg="cache miss" cache=name key=name:8 at=l1 reason=absent
	// level=DEBUG msg="cache miss" cache=name key=name:8 at=l2 reason=absent
	// level=WARN msg="load failed" cache=name key=name:8 refresh=false err="freshet: load \"name:8\": connection refused"
}
