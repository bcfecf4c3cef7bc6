package buffer_test

import (
	"context"
	"fmt"

	"github.com/conveyor-etl/conveyor/buffer"
)

// A stage that may have two records or 1 MiB in work at a time.
func Example() {
	ctx := context.Background()
	credit := buffer.New(2, 1<<20)
	queue := buffer.NewQueue[string](16, 1<<20)

	for _, record := range []string{"a", "b"} {
		if err := credit.Acquire(ctx, 1, int64(len(record))); err != nil {
			fmt.Println(err)
			return
		}
		if err := queue.Push(ctx, record, int64(len(record))); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("room for a third:", credit.TryAcquire(1, 1))

	record, err := queue.Pop(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	credit.Release(1, int64(len(record))) // record is settled
	fmt.Println("settled", record)
	fmt.Println("room for a third:", credit.TryAcquire(1, 1))
	// Output:
	// room for a third: false
	// settled a
	// room for a third: true
}

// Credit between two processes: the receiver grants absolute totals, the sender keeps to them.
func ExampleSendLimit() {
	ctx := context.Background()
	receiver := buffer.NewRecvLimit(2, 1000)
	sender := buffer.NewSendLimit(receiver.Granted()) // the grant travels over the wire

	for range 2 {
		if err := sender.Acquire(ctx, 1, 100); err != nil {
			fmt.Println(err)
			return
		}
		if err := receiver.Check(1, 100); err != nil { // a lying sender is found out here
			fmt.Println(err)
			return
		}
	}
	fmt.Println("may send:", sender.TryAcquire(1, 100))

	receiver.Settle(1, 100)
	if receiver.ShouldAnnounce() {
		sender.Settle(1, 100)
		sender.Raise(receiver.Announce())
	}
	fmt.Println("may send:", sender.TryAcquire(1, 100))
	// Output:
	// may send: false
	// may send: true
}

// Two inputs with items of different sizes get the same number of bytes.
func ExampleMerge() {
	merge := buffer.NewMerge[string](1 << 10)
	for name, size := range map[string]int64{"large": 4 << 10, "small": 1 << 10} {
		q := buffer.NewQueue[string](100, 1<<20)
		for q.TryPush(name, size) && q.Len() < 100 {
		}
		if err := merge.Add(q, 1); err != nil {
			fmt.Println(err)
			return
		}
	}
	count := map[string]int{}
	for range 100 {
		name, _ := merge.TryPop()
		count[name]++
	}
	fmt.Println(count)
	// Output:
	// map[large:20 small:80]
}
