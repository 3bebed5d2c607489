package fleet

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// Action is what a change does.
type Action string

// The actions, as Terraform's users know them.
const (
	Create Action = "create"
	Update Action = "update"
	Delete Action = "delete"
	Roll   Action = "roll" // replace machines one batch after another
)

var marks = map[Action]string{Create: "+", Update: "~", Delete: "-", Roll: "~"}

// Change is one difference between the spec and the cloud, and how it is made.
type Change struct {
	Action Action  `json:"action"`
	Kind   string  `json:"kind"` // "launch template"
	Name   string  `json:"name"`
	Fields []Field `json:"fields,omitempty"`
	Note   string  `json:"note,omitempty"` // why, or what follows from it
	// Do makes the change. It may be called again after it failed half-way, and tells the id of what it created the
	// moment that it knows it.
	Do func(ctx context.Context, created func(id string) error) error `json:"-"`
}

// Field is one value that differs. Secrets never stand here: user-data counts by its digest.
type Field struct {
	Name string `json:"name"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

func (c Change) String() string { return string(c.Action) + " " + c.Kind + " " + c.Name }

// Fields collects what differs.
type Fields []Field

// Diff adds a field if its values differ, and says whether they do; both are written as people read them.
func (f *Fields) Diff(name string, have, want any) bool {
	h, w := show(have), show(want)
	if h != w {
		*f = append(*f, Field{name, h, w})
	}
	return h != w
}

// Set adds a field of something new.
func (f *Fields) Set(name string, value any) {
	if v := show(value); v != "" {
		*f = append(*f, Field{Name: name, New: v})
	}
}

// show writes a value: pointers by what they point to, lists with commas, nothing as "".
func show(v any) string {
	r := reflect.ValueOf(v)
	for r.IsValid() && r.Kind() == reflect.Pointer {
		r = r.Elem()
	}
	switch {
	case !r.IsValid():
		return ""
	case r.Kind() == reflect.Slice:
		var all []string
		for i := range r.Len() {
			all = append(all, show(r.Index(i).Interface()))
		}
		return strings.Join(all, ", ")
	}
	return fmt.Sprint(r.Interface())
}

// Render prints changes as people know them from Terraform; coloured where colour is set.
func Render(w io.Writer, changes []Change, colour bool) {
	paint := func(a Action, text string) string {
		if !colour {
			return text
		}
		return map[Action]string{Create: "\x1b[32m", Update: "\x1b[33m", Delete: "\x1b[31m", Roll: "\x1b[36m"}[a] + text + "\x1b[0m"
	}
	var b strings.Builder
	for _, c := range changes {
		verb := ""
		if c.Action == Roll {
			verb = " (rolled)"
		}
		fmt.Fprintf(&b, "%s\n", paint(c.Action, marks[c.Action]+" "+c.Kind+" "+c.Name+verb))
		wide := 0
		for _, f := range c.Fields {
			wide = max(wide, len(f.Name))
		}
		for _, f := range c.Fields {
			value := f.New
			if c.Action != Create {
				value = orNone(f.Old) + " -> " + orNone(f.New)
			}
			fmt.Fprintf(&b, "    %-*s  %s\n", wide, f.Name, value)
		}
		if c.Note != "" {
			fmt.Fprintf(&b, "    # %s\n", c.Note)
		}
	}
	_, _ = io.WriteString(w, b.String())
}

// WithoutRoll leaves out the replacement of machines.
func WithoutRoll(changes []Change) []Change {
	return slices.DeleteFunc(changes, func(c Change) bool { return c.Action == Roll })
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// Count says what changes would do: "2 to create, 1 to change, 0 to remove".
func Count(changes []Change) string {
	n := map[Action]int{}
	for _, c := range changes {
		n[c.Action]++
	}
	text := fmt.Sprintf("%d to create, %d to change, %d to remove", n[Create], n[Update], n[Delete])
	if n[Roll] > 0 {
		text += ", machines to replace"
	}
	return text
}
