package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
)

// The form of a bbolt file: pages that begin with their number, their kind, how many elements they have, and how many pages follow that belong to them. Two meta pages take
// turns in saying where the tree of the last transaction begins. Only they have a checksum: of the others the library believes all, and ends the process where it cannot.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	pageHeader     = 16
	pageElement    = 16
	metaBytes      = 64
	bucketHeader   = 16
	branchPage     = 1
	leafPage       = 2
	metaPage       = 4
	freelistPage   = 16
	bucketElement  = 1
	noFreelist     = math.MaxUint64
	manyInFreelist = math.MaxUint16 // then the number stands in the first entry
)

// boltPages reads the pages of a file.
type boltPages struct {
	file    io.ReaderAt
	size    int64 // of a page
	count   uint64
	used    []bool
	buckets []string
}

type boltMeta struct {
	pageSize              uint32
	root, freelist, count uint64
	tx                    uint64
}

// element is what a page says of one key.
type element struct {
	flags      uint32
	child      uint64
	key, value []byte
}

// checkPages reads all pages of a bbolt file that count, and returns the names of its buckets. An error says what the library would panic at, or pass over: bounds, order, numbers,
// pages that are used twice. What keys and values mean is for others to say.
func checkPages(file io.ReaderAt, size int64) (buckets []string, err error) {
	meta, err := readMeta(file, 0, 0)
	if err != nil {
		return nil, err
	}
	if s := meta.pageSize; s < 1024 || s > 65536 || s&(s-1) != 0 {
		return nil, fmt.Errorf("its pages are to have %d bytes", s)
	}
	// A meta page lies in one sector, which a disk writes whole or not at all. So this is no write that was interrupted, and the library would go on from the transaction before.
	other, err := readMeta(file, 1, int64(meta.pageSize))
	if err != nil {
		return nil, err
	}
	if other.pageSize != meta.pageSize {
		return nil, fmt.Errorf("its pages are to have %d and %d bytes", meta.pageSize, other.pageSize)
	}
	if other.tx > meta.tx {
		meta = other
	}
	p := &boltPages{file: file, size: int64(meta.pageSize), count: meta.count}
	if uint64(size)/uint64(meta.pageSize) < meta.count {
		return nil, fmt.Errorf("it ends at byte %d, and %d pages of %d bytes have been written", size, meta.count, meta.pageSize)
	}
	p.used = make([]bool, meta.count)
	if err := p.tree(meta.root, nil, nil, p.bucket); err != nil {
		return nil, err
	}
	return p.buckets, p.freelist(meta.freelist)
}

func readMeta(file io.ReaderAt, number uint64, at int64) (boltMeta, error) {
	b := make([]byte, pageHeader+metaBytes)
	if _, err := file.ReadAt(b, at); err != nil {
		return boltMeta{}, fmt.Errorf("read meta page %d: %w", number, err)
	}
	page, b := b[:pageHeader], b[pageHeader:]
	sum := fnv.New64a()
	sum.Write(b[:metaBytes-8])
	order := binary.NativeEndian
	switch {
	case order.Uint64(page) != number || order.Uint16(page[8:]) != metaPage:
		return boltMeta{}, fmt.Errorf("meta page %d is none", number)
	case order.Uint32(b) != boltMagic:
		return boltMeta{}, fmt.Errorf("meta page %d is not of a bbolt file", number)
	case order.Uint32(b[4:]) != boltVersion:
		return boltMeta{}, fmt.Errorf("meta page %d has the unknown version %d", number, order.Uint32(b[4:]))
	case order.Uint64(b[metaBytes-8:]) != sum.Sum64():
		return boltMeta{}, fmt.Errorf("the checksum of meta page %d does not match", number)
	}
	return boltMeta{
		pageSize: order.Uint32(b[8:]), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]), count: order.Uint64(b[40:]), tx: order.Uint64(b[48:]),
	}, nil
}

// page reads a page with what follows and belongs to it, which nothing else may use.
func (p *boltPages) page(number uint64) ([]byte, error) {
	if number < 2 || number >= p.count {
		return nil, fmt.Errorf("it points at page %d of %d", number, p.count)
	}
	head := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(head, int64(number)*p.size); err != nil {
		return nil, fmt.Errorf("read page %d: %w", number, err)
	}
	more := binary.NativeEndian.Uint32(head[12:])
	if binary.NativeEndian.Uint64(head) != number || uint64(more) >= p.count-number {
		return nil, fmt.Errorf("the header of page %d is not that of one", number)
	}
	for n := number; n <= number+uint64(more); n++ {
		if p.used[n] {
			return nil, fmt.Errorf("page %d is used twice", n)
		}
		p.used[n] = true
	}
	b := make([]byte, (1+int64(more))*p.size)
	if _, err := p.file.ReadAt(b, int64(number)*p.size); err != nil {
		return nil, fmt.Errorf("read page %d: %w", number, err)
	}
	return b, nil
}

// tree reads the pages from one on. Its keys are in order, from a first one on and before another; nil is no bound.
func (p *boltPages) tree(number uint64, from, before []byte, each func(e element) error) error {
	b, err := p.page(number)
	if err != nil {
		return err
	}
	elements, leaf, _, err := readElements(b)
	if err == nil && !leaf && len(elements) == 0 {
		err = errors.New("it leads nowhere")
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", number, err)
	}
	for i, e := range elements {
		if from != nil && bytes.Compare(e.key, from) < 0 || before != nil && bytes.Compare(e.key, before) >= 0 {
			return fmt.Errorf("page %d: its keys belong elsewhere", number)
		}
		if leaf {
			if err := each(e); err != nil {
				return err
			}
			continue
		}
		end := before
		if i+1 < len(elements) {
			end = elements[i+1].key
		}
		if err := p.tree(e.child, e.key, end, each); err != nil {
			return err
		}
	}
	return nil
}

// readElements reads a page, and where its content ends. The library writes the content without gaps and in the order of the elements, so that a wrong number or length shows.
func readElements(b []byte) (elements []element, leaf bool, end int, err error) {
	kind, count := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	leaf = kind == leafPage
	if !leaf && kind != branchPage {
		return nil, false, 0, fmt.Errorf("its kind is %d", kind)
	}
	at := int64(pageHeader + count*pageElement)
	for i := range count {
		head := int64(pageHeader + i*pageElement)
		if head+pageElement > int64(len(b)) {
			return nil, false, 0, fmt.Errorf("it is to have %d keys", count)
		}
		h := b[head : head+pageElement]
		word := func(i int) uint32 { return binary.NativeEndian.Uint32(h[4*i:]) }
		var e element
		var pos, keyBytes, valueBytes uint32
		if leaf {
			e.flags, pos, keyBytes, valueBytes = word(0), word(1), word(2), word(3)
		} else {
			pos, keyBytes, e.child = word(0), word(1), binary.NativeEndian.Uint64(h[8:])
		}
		value, next := at+int64(keyBytes), at+int64(keyBytes)+int64(valueBytes)
		if int64(pos) != at-head || keyBytes == 0 || next > int64(len(b)) {
			return nil, false, 0, fmt.Errorf("key %d of %d does not lie where it is to", i+1, count)
		}
		e.key, e.value, at = b[at:value], b[value:next], next
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 {
			return nil, false, 0, fmt.Errorf("key %d of %d is not in order", i+1, count)
		}
		elements = append(elements, e)
	}
	return elements, leaf, int(at), nil
}

// bucket reads a bucket, the small ones of which lie in the page that names them.
func (p *boltPages) bucket(e element) error {
	if e.flags != bucketElement || len(e.value) < bucketHeader {
		return fmt.Errorf("%q is to be a bucket and is none", e.key)
	}
	p.buckets = append(p.buckets, string(e.key))
	value := func(e element) error {
		if e.flags != 0 {
			return errors.New("a value is of an unknown kind")
		}
		return nil
	}
	if root := binary.NativeEndian.Uint64(e.value); root != 0 {
		return p.tree(root, nil, nil, value)
	}
	b := e.value[bucketHeader:]
	if len(b) < pageHeader {
		return fmt.Errorf("bucket %q is cut off", e.key)
	}
	elements, leaf, end, err := readElements(b)
	if err == nil && (!leaf || end != len(b)) {
		err = errors.New("its content is not what it is to be")
	}
	for i := 0; err == nil && i < len(elements); i++ {
		err = value(elements[i])
	}
	if err != nil {
		return fmt.Errorf("bucket %q: %w", e.key, err)
	}
	return nil
}

// freelist reads which pages may be written over, if that is in the file: it must be all those that are not used.
func (p *boltPages) freelist(number uint64) error {
	if number == noFreelist {
		return nil
	}
	b, err := p.page(number)
	if err != nil {
		return err
	}
	count, at := uint64(binary.NativeEndian.Uint16(b[10:])), pageHeader
	if count == manyInFreelist {
		count, at = binary.NativeEndian.Uint64(b[at:]), at+8
	}
	if binary.NativeEndian.Uint16(b[8:]) != freelistPage || count > uint64(len(b)-at)/8 {
		return fmt.Errorf("page %d is not the list of free pages", number)
	}
	for i := range int(count) {
		free := binary.NativeEndian.Uint64(b[at+8*i:])
		if free < 2 || free >= p.count || p.used[free] {
			return fmt.Errorf("page %d is to be free and is not", free)
		}
		p.used[free] = true
	}
	for n := uint64(2); n < p.count; n++ {
		if !p.used[n] {
			return fmt.Errorf("page %d is neither used nor free", n)
		}
	}
	return nil
}
