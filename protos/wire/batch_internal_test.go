package wire

import "testing"

func TestBuilder_AFlowOfEqualBatchesMovesNoRecord(t *testing.T) {
	var w Builder
	fill := func() *Batch {
		for range 100 {
			w.AppendEncoded(make([]byte, 1000))
		}
		return w.Finish()
	}
	fill().Free()
	w.AppendEncoded(make([]byte, 1000))
	first := w.b.data
	for range 99 {
		w.AppendEncoded(make([]byte, 1000))
	}
	if w.b.data != first {
		t.Error("a batch like the one before moved while it grew")
	}
	w.Finish().Free()
}

func TestBuilder_ASmallBatchBehindALargeOneHoldsLittleMemory(t *testing.T) {
	var w Builder
	for _, expected := range []func(){
		func() { w.AppendEncoded(make([]byte, 1<<20)); w.Finish().Free() },
		func() { w.Expect(1 << 20) },
		func() { w.Expect(1 << 40) },
	} {
		expected()
		w.AppendEncoded(make([]byte, 100))
		b := w.Finish()
		if got := cap(*b.data); got > minBuffer {
			t.Errorf("a batch of 100 bytes holds %d", got)
		}
		if string(b.Record(0)) != string(make([]byte, 100)) {
			t.Error("the record is not what was appended")
		}
		b.Free()
	}
}
