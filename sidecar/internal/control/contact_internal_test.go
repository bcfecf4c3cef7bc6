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
		c := newContact(5*time.Second, func(lost bool) { told = append(told, lost) })
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
		c.made()
		expect(false)
		for range 5 {
			time.Sleep(3 * time.Second)
			c.made()
			expect(false)
		}
		time.Sleep(5 * time.Second)
		expect(true)
		c.made()
		expect(false)
		c.lost()
		expect(true)
		time.Sleep(time.Minute)
		expect()
	})
}
