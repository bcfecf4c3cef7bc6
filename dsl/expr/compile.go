package expr

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// Limits on expressions, so that none takes a sidecar's time or memory.
const (
	// maxSource is the largest length of an expression in characters.
	maxSource = 16 << 10
	// maxCost bounds the work of one evaluation of an expression that could do more than its length in work, in CEL's cost units: about one per
	// operation and one per ten characters.
	maxCost = 3_000_000
	// maxConcats is the number of additions from which on the size of the results is bounded too.
	maxConcats = 8
)

// Program is a compiled expression. It is safe for concurrent use and keeps nothing of the records it saw.
type Program struct {
	kind Kind
	prog cel.Program
	uses map[string]bool
	pool sync.Pool
}

// Variables are the names that expressions may read.
var variables = []cel.EnvOption{
	cel.Variable("value", cel.DynType),
	cel.Variable("key", cel.DynType),
	cel.Variable("headers", cel.MapType(cel.StringType, cel.DynType)),
	cel.Variable("time", cel.TimestampType),
	cel.Variable("op", cel.StringType),
	cel.Variable("meta", cel.MapType(cel.StringType, cel.StringType)),
}

var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(append(slices.Clone(variables),
		cel.ParserExpressionSizeLimit(maxSource), cel.ParserRecursionLimit(100), cel.RegexProgramSizeLimit(10_000))...)
})

// Compile parses and type-checks an expression. The error is a *SyntaxError when the text is at fault.
func Compile(kind Kind, src string) (*Program, error) {
	if kind != Condition && kind != Filter && kind != Map {
		return nil, fmt.Errorf("compile expression: unknown kind %q", kind)
	}
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("set up expressions: %w", err)
	}
	checked, issues := env.Compile(src)
	if issues.Err() != nil {
		return nil, firstIssue(issues)
	}
	tree := checked.NativeRep()
	if err := checkResult(kind, checked.OutputType()); err != nil {
		return nil, err
	}
	p := &Program{kind: kind, uses: map[string]bool{}}
	bounded, err := p.inspect(tree)
	if err != nil {
		return nil, err
	}
	options := []cel.ProgramOption{cel.CustomDecoratorV2(keepOrder), cel.EvalOptions(cel.OptOptimize)}
	if !bounded {
		options = append(options, cel.CostLimit(maxCost))
	}
	if p.prog, err = env.Program(checked, options...); err != nil {
		return nil, &SyntaxError{Line: 1, Column: 1, Msg: err.Error()}
	}
	p.pool.New = func() any { return &state{} }
	return p, nil
}

// Check reports what is wrong with an expression. It fits dsl.Options.CheckExpr.
func Check(kind Kind, src string) error {
	_, err := Compile(kind, src)
	return err
}

func firstIssue(issues *cel.Issues) error {
	all := issues.Errors()
	if len(all) == 0 {
		return &SyntaxError{Line: 1, Column: 1, Msg: issues.Err().Error()}
	}
	first := slices.MinFunc(all, func(a, b *cel.Error) int {
		return cmp.Or(cmp.Compare(a.Location.Line(), b.Location.Line()), cmp.Compare(a.Location.Column(), b.Location.Column()))
	})
	return &SyntaxError{Line: max(1, first.Location.Line()), Column: max(1, first.Location.Column()+1), Msg: plainly(first.Message)}
}

// The parser lists every token that could stand at a place, by its own names, which tells an author nothing.
var (
	expected = regexp.MustCompile(` expecting \{.*\}$`)
	theEnd   = regexp.MustCompile(`(?:mismatched|extraneous) input '<EOF>'`)
)

func plainly(message string) string {
	return theEnd.ReplaceAllString(expected.ReplaceAllString(message, ""), "the expression ends too early")
}

func checkResult(kind Kind, t *cel.Type) error {
	if kind == Map {
		if t.Kind() == types.TypeKind {
			return &SyntaxError{Line: 1, Column: 1, Msg: "the result is a type, which has no form in JSON"}
		}
		return nil
	}
	if k := t.Kind(); k != types.BoolKind && k != types.DynKind {
		return &SyntaxError{Line: 1, Column: 1, Msg: fmt.Sprintf("a %s must be true or false, this is of type %s", kind, t)}
	}
	return nil
}

// inspect notes which variables the expression reads and refuses unknown fields of meta. It reports whether the work of an evaluation is bounded by the
// length of the expression and the size of the record.
func (p *Program) inspect(tree *ast.AST) (bounded bool, err error) {
	var fault *SyntaxError
	concats, loops := 0, 0
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			p.uses[e.AsIdent()] = true
		case ast.ComprehensionKind:
			loops++
		case ast.CallKind:
			if e.AsCall().FunctionName() == operators.Add {
				concats++
			}
		case ast.SelectKind:
			sel := e.AsSelect()
			if o := sel.Operand(); o.Kind() == ast.IdentKind && o.AsIdent() == "meta" && !slices.Contains(metaFields, sel.FieldName()) {
				at := tree.SourceInfo().GetStartLocation(e.ID())
				fault = &SyntaxError{
					Line: at.Line(), Column: at.Column() + 1,
					Msg: fmt.Sprintf("meta has no field %q; it has pipeline, stage, lane and id", sel.FieldName()),
				}
			}
		}
	}))
	if fault != nil {
		return false, fault
	}
	return loops == 0 && concats < maxConcats, nil
}

// keepOrder makes map literals keep the order of their keys.
func keepOrder(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	c, ok := i.(interpreter.InterpretableConstructor)
	if !ok || c.Type() != types.MapType {
		return i, nil
	}
	m := &orderedMap{InterpretableConstructor: c}
	parts := c.InitVals()
	seen := map[ref.Val]bool{}
	for j := 0; j+1 < len(parts); j += 2 {
		if k, ok := parts[j].(interpreter.InterpretableConst); ok {
			if seen[k.Value()] {
				return nil, fmt.Errorf("the key %q stands twice in a map", fmt.Sprint(k.Value().Value()))
			}
			seen[k.Value()] = true
		}
		m.keys, m.values = append(m.keys, parts[j]), append(m.values, parts[j+1])
	}
	return m, nil
}

type orderedMap struct {
	interpreter.InterpretableConstructor
	keys, values []interpreter.InterpretableV2
}

// Exec evaluates the entries in their order.
func (m *orderedMap) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	both := make([]ref.Val, 2*len(m.keys))
	l := literal{names: both[:len(m.keys)], values: both[len(m.keys):]}
	for i, k := range m.keys {
		l.names[i] = k.Exec(frame)
		if types.IsUnknownOrError(l.names[i]) {
			return l.names[i]
		}
		l.values[i] = m.values[i].Exec(frame)
		if types.IsUnknownOrError(l.values[i]) {
			return l.values[i]
		}
	}
	return mapping{l}
}

// Eval is Exec for callers of CEL's older interface.
func (m *orderedMap) Eval(vars interpreter.Activation) ref.Val {
	if frame, ok := vars.(*interpreter.ExecutionFrame); ok {
		return m.Exec(frame)
	}
	frame, err := interpreter.NewExecutionFrame(vars)
	if err != nil {
		return types.WrapErr(err)
	}
	defer frame.Close()
	return m.Exec(frame)
}

var errNotBool = errors.New("the result is not true or false")
