package control

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestContact_TellsOfSilenceOnceItHasLastedAndOfTheNextAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []bool
		c := newContact(5*time.Second, false, func(lost bool) { told = append(told, lost) })
		expect := func(want ...bool) {
			t.Helper()
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			if !slices.Equal(told, want) {
				t.Errorf("told %v, want %v", told, want)
			}
			told = nil
		}
		time.Sleep(5*time.Second - time.Nanosecond)
		expect()
		time.Sleep(time.Nanosecond)
		expect(true)
		c.made(time.Now())
		expect(false)
		for range 5 {
			time.Sleep(3 * time.Second)
			c.made(time.Now())
			expect(false)
		}
		time.Sleep(5 * time.Second)
		expect(true)
		c.made(time.Now())
		expect(false)
		// An answer counts from when it was asked for.
		sent := time.Now()
		time.Sleep(4 * time.Second)
		c.made(sent)
		expect(false)
		time.Sleep(time.Second)
		expect(true)
		// One that comes too late for that is none.
		c.made(sent)
		expect(true)
		c.made(time.Now())
		expect(false)
		c.lost()
		expect(true)
		time.Sleep(time.Minute)
		expect()

		c = newContact(5*time.Second, true, func(lost bool) { told = append(told, lost) })
		expect(true)
		c.made(time.Now())
		expect(false)
		c.lost()
	})
}
