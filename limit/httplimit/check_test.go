package httplimit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/dunglas/httpsfv"
)

// checkAnswer checks what must hold of every answer: the fields are as the draft has them, by a parser of structured
// fields that is not ours; a refusal is a problem document, and says when to come again.
func checkAnswer(method string, status int, h http.Header, body []byte) error {
	policies, err := checkPolicies(h["Ratelimit-Policy"])
	if err != nil {
		return err
	}
	waits, err := checkLimits(h["Ratelimit"], policies)
	if err != nil {
		return err
	}
	again := h["Retry-After"]
	if len(again) > 1 {
		return fmt.Errorf("Retry-After %q", again)
	}
	if len(again) == 1 {
		n, err := strconv.ParseInt(again[0], 10, 64)
		if err != nil || n < 1 || strconv.FormatInt(n, 10) != again[0] {
			return fmt.Errorf("Retry-After %q; want seconds, at least 1", again[0])
		}
		for name, t := range waits {
			if n < t {
				return fmt.Errorf("Retry-After %d is earlier than t=%d of %q", n, t, name)
			}
		}
	}
	if status < 400 || h.Get("Content-Type") != "application/problem+json" {
		return nil
	}
	if h.Get("Cache-Control") != "no-store" {
		return fmt.Errorf("Cache-Control %q; want no-store", h.Get("Cache-Control"))
	}
	if method == http.MethodHead {
		if len(body) > 0 {
			return fmt.Errorf("HEAD is answered with a body: %s", body)
		}
		return nil
	}
	if n := h.Get("Content-Length"); n != strconv.Itoa(len(body)) {
		return fmt.Errorf("Content-Length %q of %d bytes", n, len(body))
	}
	return checkProblem(body, status, policies)
}

func checkPolicies(lines []string) (names []string, err error) {
	if lines == nil {
		return nil, nil
	}
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("RateLimit-Policy %q: %v; want a list that isn't empty", lines, fmt.Sprint(err))
	}
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			return nil, fmt.Errorf("RateLimit-Policy %q: a member is no item", lines)
		}
		name, isString := item.Value.(string)
		q, _ := item.Params.Get("q")
		n, isInt := q.(int64)
		if !isString || !isInt || n < 0 || slices.Contains(names, name) {
			return nil, fmt.Errorf("RateLimit-Policy %q: item %#v, q=%v; want a string that stands once, and an integer", lines, item.Value, q)
		}
		names = append(names, name)
		for _, param := range item.Params.Names() {
			v, _ := item.Params.Get(param)
			switch n, isInt := v.(int64); param {
			case "q":
			case "w", "freshet-burst":
				if !isInt || n < 1 {
					return nil, fmt.Errorf("RateLimit-Policy %q: %s=%v; want an integer above 0", lines, param, v)
				}
			case "qu":
				if _, isString := v.(string); !isString {
					return nil, fmt.Errorf("RateLimit-Policy %q: qu=%#v; want a string", lines, v)
				}
			default:
				return nil, fmt.Errorf("RateLimit-Policy %q: unknown parameter %s", lines, param)
			}
		}
	}
	return names, nil
}

// checkLimits returns the t of each.
func checkLimits(lines, policies []string) (map[string]int64, error) {
	if lines == nil {
		return nil, nil
	}
	list, err := httpsfv.UnmarshalList(lines)
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("RateLimit %q: %v; want a list that isn't empty", lines, fmt.Sprint(err))
	}
	waits := map[string]int64{}
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok {
			return nil, fmt.Errorf("RateLimit %q: a member is no item", lines)
		}
		name, isString := item.Value.(string)
		r, _ := item.Params.Get("r")
		if n, isInt := r.(int64); !isString || !isInt || n < 0 || !slices.Contains(policies, name) {
			return nil, fmt.Errorf("RateLimit %q: item %#v, r=%v; want one of %q, and an integer", lines, item.Value, r, policies)
		}
		for _, param := range item.Params.Names() {
			v, _ := item.Params.Get(param)
			switch n, isInt := v.(int64); param {
			case "r":
			case "t":
				if !isInt || n < 1 {
					return nil, fmt.Errorf("RateLimit %q: t=%v; want an integer above 0", lines, v)
				}
				waits[name] = n
			default:
				return nil, fmt.Errorf("RateLimit %q: unknown parameter %s", lines, param)
			}
		}
	}
	return waits, nil
}

// checkProblem checks a document by the schema of RFC 9457, appendix A, and what the draft adds.
func checkProblem(body []byte, status int, policies []string) error {
	members := map[string]json.RawMessage{}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); t != json.Delim('{') {
		return fmt.Errorf("problem %s: %v %v; want an object", body, t, fmt.Sprint(err))
	}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok || members[name] != nil {
			return fmt.Errorf("problem %s: member %v, %v; want each once", body, t, fmt.Sprint(err))
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return fmt.Errorf("problem %s: %w", body, err)
		}
		members[name] = v
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("problem %s: %w", body, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("problem %s: something follows: %v", body, fmt.Sprint(err))
	}
	text := func(name string) (string, error) {
		var s *string
		if err := json.Unmarshal(members[name], &s); err != nil || s == nil || *s == "" {
			return "", fmt.Errorf("problem %s: %s is %s; want a string", body, name, members[name])
		}
		return *s, nil
	}
	typ, err := text("type")
	if err != nil {
		return err
	}
	if _, err := url.Parse(typ); err != nil {
		return fmt.Errorf("problem %s: type is no URI: %w", body, err)
	}
	title, err := text("title")
	if err != nil {
		return err
	}
	if _, err := text("detail"); err != nil {
		return err
	}
	if got := string(members["status"]); got != strconv.Itoa(status) {
		return fmt.Errorf("problem %s: status is %s; want %d", body, got, status)
	}
	type known struct {
		title    string
		status   int
		policies bool
	}
	k, ok := map[string]known{
		"about:blank": {http.StatusText(status), status, false},
		"https://iana.org/assignments/http-problem-types#quota-exceeded":             {"Quota Exceeded", 429, true},
		"https://iana.org/assignments/http-problem-types#abnormal-usage-detected":    {"Abnormal Usage Detected", 429, true},
		"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity": {"Temporary Reduced Capacity", 503, true},
	}[typ]
	if !ok || k.title != title || k.status != status {
		return fmt.Errorf("problem %s with status %d; want %+v", body, status, k)
	}
	for name := range members {
		if !slices.Contains([]string{"type", "title", "status", "detail", "violated-policies"}, name) {
			return fmt.Errorf("problem %s: unknown member %s", body, name)
		}
	}
	var violated []string
	raw, there := members["violated-policies"]
	if there != k.policies {
		return fmt.Errorf("problem %s: violated-policies: %v; want %v", body, there, k.policies)
	}
	if there && (!strings.HasPrefix(string(raw), "[") || json.Unmarshal(raw, &violated) != nil) {
		return fmt.Errorf("problem %s: violated-policies is no array of strings", body)
	}
	for _, name := range violated {
		if policies != nil && !slices.Contains(policies, name) {
			return fmt.Errorf("problem %s: %q is none of the policies %q", body, name, policies)
		}
	}
	return nil
}
