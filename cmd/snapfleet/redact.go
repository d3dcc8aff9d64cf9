package main

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

var (
	// server begins a URL whose user and password may hold any character, as people write them: nothing ends it but the
	// text. tls, ws and wss are NATS's, too.
	server   = regexp.MustCompile(`(?i)\b(nats|tls|wss?|postgres(?:ql)?)://`)
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'"` + "`" + `]*@`)
	// login matches user:password@host and token@host:port, as NATS takes them without a scheme.
	login = regexp.MustCompile(`[^\s,;'"` + "`" + `]*:[^\s'"` + "`" + `]*@|[^\s,;:/'"` + "`" + `]+@([^\s,;:/@'"` + "`" + `]+:[0-9]+\b)`)
	// keyword matches password=... of a libpq connection string, of a URL's query and of JSON.
	keyword = regexp.MustCompile(`(?i)\b((?:ssl|pg)?password|passfile|passwd|secret|token|aws_secret_access_key|aws_session_token|secretaccesskey|sessiontoken)(["']?\s*=\s*|["']\s*:\s*)('(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)|(?:\\.|[^\s&` + "`" + `\\])+)`)
	// presigned matches what makes a link to S3 a key to it.
	presigned = regexp.MustCompile(`(?i)\b(x-amz-[a-z-]+)=[^\s&'"` + "`" + `]+`)
	signing   = regexp.MustCompile(`\bwhsec_[A-Za-z0-9+/=_-]+`)               // a webhook's secret
	accessKey = regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{12,}\b`)            // of AWS
	seed      = regexp.MustCompile(`\bS[A-Z][A-Z2-7]{56}\b`)                  // of an NKey
	jwt       = regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]*`)             // of NATS's accounts
	hints     = regexp.MustCompile(regexp.QuoteMeta(databaseHint) + `(\s|$)`) // our own words
)

// databaseHint is how a connection string is written, as our errors show it.
const databaseHint = "postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full"

// redact takes connection strings, keys and links to S3 out of a text that a person or a log collector will read. It is
// the second line: no error is meant to hold one in the first place. It rather takes too much than too little. What is
// configured here, see [secrets], it knows literally.
func redact(s string) string {
	var b strings.Builder
	last := 0
	for _, hint := range hints.FindAllStringIndex(s, -1) {
		end := hint[0] + len(databaseHint)
		b.WriteString(redactPart(s[last:hint[0]]))
		b.WriteString(s[hint[0]:end])
		last = end
	}
	b.WriteString(redactPart(s[last:]))
	return b.String()
}

func redactPart(s string) string {
	s = secrets.redact(s)
	s = presigned.ReplaceAllString(s, "${1}=***")
	s = signing.ReplaceAllString(s, "whsec_***")
	s = redactServers(s)
	s = userinfo.ReplaceAllString(s, "${1}***@")
	s = redactLogins(s)
	s = keyword.ReplaceAllString(s, "${1}${2}***")
	s = accessKey.ReplaceAllString(s, "${1}***")
	s = seed.ReplaceAllString(s, "***")
	return jwt.ReplaceAllString(s, "***")
}

// redactServers removes what is between the scheme of a server's URL and the last @ of that URL. A password may
// hold @ and / and spaces, and even another URL, so a URL ends where the next one begins behind a separator.
func redactServers(s string) string {
	var b strings.Builder
	for {
		begin := server.FindStringIndex(s)
		if begin == nil {
			b.WriteString(s)
			return b.String()
		}
		end := len(s)
		for _, next := range server.FindAllStringIndex(s[begin[1]:], -1) {
			if at := begin[1] + next[0]; strings.ContainsRune(" \t\n,;", rune(s[at-1])) {
				end = at
				break
			}
		}
		b.WriteString(s[:begin[1]])
		b.WriteString(redactServer(strings.ToLower(s[begin[0]:begin[1]]), s[begin[1]:end]))
		s = s[end:]
	}
}

func redactServer(scheme, s string) string {
	at := strings.LastIndexByte(s, '@')
	if !strings.HasPrefix(scheme, "postgres") {
		if at < 0 {
			return s
		}
		return "***@" + s[at+1:]
	}
	rest := s[at+1:]
	if i := strings.IndexAny(rest, " \t\n'\"`"); i >= 0 {
		return "***" + rest[i:]
	}
	return "***"
}

// redactLogins removes user:password@ and token@ where there is no scheme.
func redactLogins(s string) string {
	return login.ReplaceAllStringFunc(s, func(found string) string {
		if strings.HasPrefix(found, "***@") || strings.Contains(found, "://***@") {
			return found
		}
		if i := strings.Index(found, "://"); i >= 0 {
			return found[:i+3] + "***@" + found[strings.LastIndexByte(found, '@')+1:]
		}
		return "***@" + found[strings.LastIndexByte(found, '@')+1:]
	})
}

// secrets are the texts that this process was configured with, and that must not be printed.
var secrets secretTexts

type secretTexts struct {
	mu    sync.Mutex
	known []string // the longest first
}

// leastSecret is the shortest text that is taken out wherever it occurs: a shorter one is part of many words.
const leastSecret = 4

// add remembers texts, also as %q and a URL write them.
func (t *secretTexts) add(texts ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, text := range texts {
		quoted := strconv.Quote(text)
		plain, _ := url.PathUnescape(text)
		for _, form := range []string{text, quoted[1 : len(quoted)-1], url.QueryEscape(text), url.PathEscape(text), url.UserPassword("", text).String(), plain} {
			if len(form) >= leastSecret && !slices.Contains(t.known, form) {
				t.known = append(t.known, form)
			}
		}
	}
	slices.SortFunc(t.known, func(a, b string) int { return len(b) - len(a) })
}

// addNATS remembers the logins of a list of NATS servers, in each form that nats.go takes.
func (t *secretTexts) addNATS(servers string) {
	for _, list := range append(strings.Split(servers, ","), servers) {
		rest := strings.TrimSpace(list)
		if _, after, ok := strings.Cut(rest, "://"); ok {
			rest = after
		}
		at := strings.LastIndexByte(rest, '@')
		if at < 0 {
			continue
		}
		login := rest[:at]
		t.add(login)
		if _, password, ok := strings.Cut(login, ":"); ok {
			t.add(password)
		}
		// A password that should have been escaped is taken apart by those who parse the URL.
		t.add(strings.FieldsFunc(login, func(r rune) bool { return strings.ContainsRune("/@:?#[] ", r) })...)
	}
}

func (t *secretTexts) redact(s string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, secret := range t.known {
		s = strings.ReplaceAll(s, secret, "***")
	}
	return s
}

// redacted is an error whose text is redacted.
func redacted(err error) error {
	return errors.New(redact(err.Error()))
}
