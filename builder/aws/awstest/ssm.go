package awstest

import (
	"encoding/json"
	"strings"
	"time"
)

// in reads a JSON request strictly.
func (c *call) in(v any) *Error {
	d := json.NewDecoder(strings.NewReader(string(c.body)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		c.s.strict = append(c.s.strict, c.Action+": "+err.Error())
		return fail("ValidationException", "%v", err)
	}
	return nil
}

func (c *call) parameter(name string) resource {
	return resource{arn: "arn:aws:ssm:" + c.Region + ":" + c.s.o.Account + ":parameter" + name}
}

func putParameter(c *call) (any, *Error) {
	var in struct {
		Name, Value, Type, DataType, Description string
		Overwrite                                bool
	}
	if err := c.in(&in); err != nil {
		return nil, err
	}
	if err := c.begin(c.parameter(in.Name)); err != nil {
		return nil, err
	}
	if _, have := c.r.params[in.Name]; have && !in.Overwrite {
		return nil, fail("ParameterAlreadyExists", "The parameter already exists.")
	}
	if in.DataType == "aws:ec2:image" && c.r.images[in.Value] == nil {
		return nil, fail("ValidationException", "%s is not an image", in.Value)
	}
	c.r.params[in.Name] = in.Value
	return map[string]any{"Version": 1, "Tier": "Standard"}, nil
}

func getParameter(c *call) (any, *Error) {
	var in struct {
		Name           string
		WithDecryption bool
	}
	if err := c.in(&in); err != nil {
		return nil, err
	}
	if err := c.begin(c.parameter(in.Name)); err != nil {
		return nil, err
	}
	if c.s.reads.over(c.s.o.ParametersPerSecond) {
		return nil, fail("ThrottlingException", "Rate exceeded")
	}
	v, have := c.r.params[in.Name]
	if !have {
		return nil, fail("ParameterNotFound", "")
	}
	return map[string]any{"Parameter": map[string]any{"Name": in.Name, "Value": v, "Type": "SecureString", "Version": 1}}, nil
}

// window counts the calls of one second.
type window struct {
	start time.Time
	count int
}

func (w *window) over(limit int) bool {
	if now := time.Now().Truncate(time.Second); !w.start.Equal(now) {
		*w = window{start: now}
	}
	w.count++
	return limit > 0 && w.count > limit
}
