package cdc

import (
	"context"
	"errors"
)

// Errors of sources, wrapped with what failed.
var (
	// ErrGap: the changes after the position can't be had any more, or not all of them: the slot was lost, the log
	// purged, the position is of another history (promotion to another timeline, another server, restore), or what was read can't be
	// understood. The pump drops everything and begins anew; see Gap.
	ErrGap = errors.New("cdc: part of the changes is gone")

	// ErrBusy is returned by Open if the database admits one reader, and has one. The pump stands by.
	ErrBusy = errors.New("cdc: another reader is active")
)

// A Source is a database as a feed of committed changes. It holds no policy, and retries nothing: an error ends
// the stream, and the pump opens another.
//
// The suite in cdctest is this contract in executable form.
type Source interface {
	// Open begins to read after from, so that the first transaction delivered is the one that follows it; a
	// transaction may be delivered again. If from is empty, or ErrGap was returned for it, the pump calls Open with an empty one:
	// the stream then begins where the source can: at what the database kept for it, or now. The
	// source makes what it needs for that (a new slot in place of a lost one). If Next gave ErrGap for something that it can't
	// understand, the stream begins after that, or it would be met again.
	//
	// ctx is for opening alone. Errors: ErrGap, ErrBusy; anything else is tried again later, with the same from.
	Open(ctx context.Context, from Position) (Stream, error)

	// Exclusive reports whether the database admits one stream at a time, and tells others ErrBusy. Where it
	// doesn't, pumps of the same name use their marks to stand by.
	Exclusive() bool

	// Tables describes the tables for which match is true, as they are now: for Rules.Check. Those that can't be
	// followed at all (not published, no identity) are an error that names each with the statement to run.
	Tables(ctx context.Context, match func(schema, name string) bool) ([]*Table, error)
}

// A Stream is one connection to a source. Next is called by one goroutine; the other methods by others, at the
// same time, each of them by one at a time. All return soon after their ctx ends or Close is called; Close may be called at any time,
// and more than once.
type Stream interface {
	// Start is where the stream begins: the position that was asked for, or the one that the source chose.
	// If it chose: all that committed before it need not be visible yet (see Visible).
	Start() Position

	// Next waits for the next event and writes it to ev, whose slices it may reuse. What ev holds is
	// good until the next call. After an error the stream is done. Events come in this order, over and over:
	//
	//	Begin, Changed ..., Commit    one transaction, committed, whole, in the order of commits; or several that follow each other, where
	//	                              the database doesn't tell where one ends
	//	Ticked                        between transactions only
	//
	// Transactions that were rolled back are never seen; nor are changes of one that did not commit yet. A large
	// transaction is not held in memory: its changes come as they are read.
	// One without changes of interest may be left out; then its position is covered by the next Ticked.
	Next(ctx context.Context, ev *Event) error

	// Visible returns when every transaction begun by Next up to pos (the Tx.Pos of the last Begin, or Start) is
	// visible to every snapshot taken on the primary from now on. With Start, that includes all that
	// committed before the stream began. It must ask the primary: databases tell of a commit before they show it.
	// It waits with short pauses, and without end: ctx ends it.
	Visible(ctx context.Context, pos Position) error

	// Tick asks where the feed ends now: it reads from the primary a position E that covers every transaction that is
	// visible to anybody before Tick was called, and arranges that Next delivers Ticked with n as soon as it has delivered
	// all up to E, even if the database is quiet: then within a few milliseconds, and the position must move on
	// too, so that a quiet database keeps no log for us. It doesn't wait for that. The pump has one tick
	// under way at a time.
	Tick(ctx context.Context, n uint64) error

	// Ack tells the database that it need not keep what is up to pos: the Pos of a Commit or Ticked event of this stream or an earlier
	// one. A source whose database doesn't ask for that does nothing.
	Ack(ctx context.Context, pos Position) error

	// Close ends the stream, releases what it holds (a slot becomes free for others) and returns after all its goroutines ended.
	Close() error
}

// A Kind says what an event is.
type Kind uint8

// The kinds of event.
const (
	Begin   Kind = iota + 1 // Tx, with Pos already: where it will end
	Changed                 // Change
	Commit                  // Tx, as in Begin
	Ticked                  // Tick, Pos: all up to there was delivered
)

// An Event is what Next delivers.
type Event struct {
	Kind   Kind
	Tx     Tx
	Change Change
	Tick   uint64
	Pos    Position
}
