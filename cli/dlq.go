package cli

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/cli/internal/embed"
	"github.com/conveyor-etl/conveyor/cli/internal/output"
	"github.com/conveyor-etl/conveyor/cli/internal/view"
	"github.com/conveyor-etl/conveyor/client"
	controlv1 "github.com/conveyor-etl/conveyor/protos/conveyor/control/v1"
)

func (a *app) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dlq",
		GroupID: groupServer,
		Short:   "Look at dead letters, replay or discard them",
		Long: `Dead letters are records that failed for good, kept with the error and everything
needed to try again. The commands work on a server, or with --data on the
directory of a finished run.`,
		Example: `  conveyor dlq ls
  conveyor dlq ls --data ./.conveyor`,
		Args: groupArgs,
		RunE: showHelp,
	}
	cmd.AddCommand(a.dlqListCommand(), a.dlqGetCommand(), a.dlqReplayCommand(), a.dlqDiscardCommand())
	return cmd
}

// letterStore is where the commands find dead letters.
type letterStore struct {
	server serverFlags
	data   string
}

func (s *letterStore) add(cmd *cobra.Command) {
	s.server.add(cmd)
	cmd.Flags().StringVar(&s.data, "data", "", "use the data `DIR` of a finished run instead of a server")
	cmd.MarkFlagsMutuallyExclusive("server", "data")
}

// open connects to the server, or opens the data directory for this process alone.
func (a *app) openStore(ctx context.Context, s letterStore) (*client.Client, func() error, error) {
	a.listHint = "conveyor dlq ls"
	if s.data == "" {
		c, err := a.dial(ctx, s.server)
		if err != nil {
			return nil, nil, err
		}
		return c, c.Close, nil
	}
	sys, err := a.openData(ctx, s.data)
	if err != nil {
		return nil, nil, err
	}
	return sys.Client(), sys.Close, nil
}

// openData opens the directory of a run, which must exist.
func (a *app) openData(ctx context.Context, dir string) (*embed.System, error) {
	if err := isDataDir(dir); err != nil {
		return nil, err
	}
	sys, err := embed.Open(ctx, embed.Config{DataDir: dir, Stdin: a.env.Stdin, Stdout: a.env.Stdout, Logger: a.logger()})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return sys, nil
}

// letterFilter selects letters by flags.
type letterFilter struct {
	ns       namespaceFlags
	pipeline string
	stage    string
	code     string
}

func (f *letterFilter) add(cmd *cobra.Command) {
	f.ns.add(cmd, true)
	cmd.Flags().StringVarP(&f.pipeline, "pipeline", "p", "", "letters of this `PIPELINE`")
	cmd.Flags().StringVar(&f.stage, "stage", "", "letters that failed at this `STAGE`")
	cmd.Flags().StringVar(&f.code, "code", "", "letters with this error `CODE`")
}

func (f *letterFilter) filter() *controlv1.LetterFilter {
	out := &controlv1.LetterFilter{Pipeline: f.pipeline, Stage: f.stage, Code: f.code, AllNamespaces: f.ns.all}
	if !f.ns.all {
		out.Namespace = f.ns.namespace
	}
	return out
}

func (f *letterFilter) empty() bool { return f.pipeline == "" && f.stage == "" && f.code == "" }

// selection is the filter of a command that changes letters: it must say which, and everything only on request.
func (f *letterFilter) selection(cmd *cobra.Command, args []string, all bool) (*controlv1.LetterFilter, error) {
	switch {
	case len(args) > 0 && (all || !f.empty()):
		return nil, usage(cmd, "name letters by their ids, or select them with flags, not both")
	case len(args) == 0 && !all && f.empty():
		return nil, usage(cmd, "say which letters: ID..., -p PIPELINE, --stage, --code or --all")
	case len(args) == 0:
		return f.filter(), nil
	}
	out := &controlv1.LetterFilter{AllNamespaces: true}
	for _, arg := range args {
		id, err := letterID(cmd, arg)
		if err != nil {
			return nil, err
		}
		out.Ids = append(out.Ids, id)
	}
	return out, nil
}

func letterID(cmd *cobra.Command, arg string) (uint64, error) {
	id, err := strconv.ParseUint(arg, 10, 64)
	if err != nil || id == 0 {
		return 0, usage(cmd, "%q is not the id of a dead letter: want a number from `conveyor dlq ls`", arg)
	}
	return id, nil
}

func (a *app) dlqListCommand() *cobra.Command {
	var store letterStore
	var filter letterFilter
	var format output.Format
	var limit uint32
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List dead letters",
		Example: `  conveyor dlq ls
  conveyor dlq ls -p orders --code INVALID_JSON -o json
  conveyor dlq ls --data ./.conveyor`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, closeStore, err := a.openStore(cmd.Context(), store)
			if err != nil {
				return err
			}
			defer func() { err = first(err, closeStore()) }()
			return a.listLetters(&format, c.Letters(cmd.Context(), filter.filter(), limit))
		},
	}
	store.add(cmd)
	filter.add(cmd)
	addOutput(cmd, &format)
	cmd.Flags().Uint32Var(&limit, "limit", 0, "print at most `N` letters; 0 for all")
	return cmd
}

// listLetters prints letters as they come where the format allows, since a store may hold more of them than fit into memory.
func (a *app) listLetters(format *output.Format, letters iter.Seq2[*controlv1.Letter, error]) error {
	switch {
	case format.Table():
		return a.letterTable(format, letters)
	case format.String() == "json":
		return a.letterJSON(letters)
	}
	var items []*view.DeadLetter
	var names []string
	for l, err := range letters {
		if err != nil {
			return err
		}
		items = append(items, view.Letter(l))
		names = append(names, items[len(items)-1].TypeName())
	}
	return format.Print(a.env.Stdout, view.NewList("DeadLetter", items), names)
}

func (a *app) letterJSON(letters iter.Seq2[*controlv1.Letter, error]) error {
	list, err := output.NewListWriter(a.env.Stdout, "DeadLetterList")
	if err != nil {
		return err
	}
	for l, err := range letters {
		if err != nil {
			return err
		}
		if err := list.Add(view.Letter(l)); err != nil {
			return err
		}
	}
	return list.Close()
}

// tablePage is how many rows share the widths of their columns.
const tablePage = 500

func (a *app) letterTable(format *output.Format, letters iter.Seq2[*controlv1.Letter, error]) error {
	header := []string{"ID", "PIPELINE", "STAGE", "CODE", "ATTEMPTS", "AGE", "MESSAGE"}
	if format.Wide() {
		header = []string{"ID", "NAMESPACE", "PIPELINE", "STAGE", "CLASS", "CODE", "ATTEMPTS", "REPLAYS", "AGE", "RECORD", "MESSAGE"}
	}
	var rows [][]string
	n, now := 0, time.Now()
	flush := func() error {
		if !format.Wide() {
			fit(header, rows, a.out.Width())
		}
		err := output.Table(a.env.Stdout, header, rows)
		rows = rows[:0]
		return err
	}
	for l, err := range letters {
		if err != nil {
			return err
		}
		n++
		d := view.Letter(l)
		age := ""
		if d.StoredAt != nil {
			age = output.Age(now, *d.StoredAt)
		}
		row := []string{fmt.Sprint(d.ID), d.Pipeline, d.Stage, d.Code, fmt.Sprint(len(d.Attempts)), age, output.Clean(d.Message)}
		if format.Wide() {
			row = []string{
				fmt.Sprint(d.ID), d.Namespace, d.Pipeline, d.Stage, d.Class, d.Code, fmt.Sprint(len(d.Attempts)), fmt.Sprint(d.Replays), age,
				d.RecordID, output.Clean(d.Message),
			}
		}
		if rows = append(rows, row); len(rows) == tablePage {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		say(a.env.Stderr, "no dead letters")
		return nil
	}
	if len(rows) == 0 {
		return nil
	}
	return flush()
}

// fit shortens the last column so that the rows fit the width, but not below 12 columns.
func fit(header []string, rows [][]string, width int) {
	last := len(header) - 1
	used := 0
	for i := range last {
		w := len(header[i])
		for _, r := range rows {
			w = max(w, len([]rune(r[i])))
		}
		used += w + 2
	}
	for _, r := range rows {
		r[last] = output.Cut(r[last], max(width-used, 12))
	}
}

func (a *app) dlqGetCommand() *cobra.Command {
	var store letterStore
	var format output.Format
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show one dead letter: the record, the error, every attempt",
		Example: `  conveyor dlq get 7
  conveyor dlq get 7 -o jsonpath='{.payload}' | base64 -d`,
		Args: exactlyOne("the ID of a dead letter"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			id, err := letterID(cmd, args[0])
			if err != nil {
				return err
			}
			c, closeStore, err := a.openStore(cmd.Context(), store)
			if err != nil {
				return err
			}
			defer func() { err = first(err, closeStore()) }()
			l, err := c.Letter(cmd.Context(), id)
			if err != nil {
				return err
			}
			d := view.Letter(l)
			if !format.Table() {
				return format.Print(a.env.Stdout, d, []string{d.TypeName()})
			}
			a.describeLetter(d)
			return nil
		},
	}
	store.add(cmd)
	addOutput(cmd, &format)
	return cmd
}

// maxShown is how much of a payload people are shown.
const maxShown = 2048

func (a *app) describeLetter(d *view.DeadLetter) {
	w := a.env.Stdout
	field(w, "ID", fmt.Sprint(d.ID))
	field(w, "Record", d.RecordID)
	field(w, "Pipeline", d.Namespace+"/"+d.Pipeline)
	field(w, "Stage", d.Stage)
	field(w, "Came from", d.Edge)
	field(w, "Service", d.Service)
	field(w, "Error", d.Code+" ("+d.Class+")")
	field(w, "Message", d.Message)
	field(w, "Replays", fmt.Sprint(d.Replays))
	if d.StoredAt != nil {
		field(w, "Stored", d.StoredAt.Local().Format(time.RFC3339))
	}
	if len(d.Attempts) > 0 {
		say(w, "Attempts:")
		for _, at := range d.Attempts {
			when := "-"
			if at.At != nil {
				when = at.At.Local().Format(time.RFC3339Nano)
			}
			say(w, "  %s %s %s", when, output.Clean(at.Code), output.Clean(at.Message))
		}
	}
	if len(d.Key) > 0 {
		field(w, "Key", position(d.Key))
	}
	for _, h := range d.Headers {
		field(w, "Header", h.Name+": "+string(h.Value))
	}
	shown, more := d.Payload, ""
	if len(shown) > maxShown {
		more = fmt.Sprintf(" (the first %d of %d bytes; -o json has all)", maxShown, len(shown))
		shown = shown[:maxShown]
	}
	say(w, "Payload:     %s%s", d.ContentType, more)
	say(w, "  %s", output.Clean(string(shown)))
}

// first is the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
