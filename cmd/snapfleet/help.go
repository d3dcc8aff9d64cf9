package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jedib0t/go-pretty/v6/text"
)

// page is what a verb's manual says beyond its flags, which kong knows.
type page struct {
	about    string      // paragraphs, separated by empty lines; indented lines stay as they are
	examples []example   //
	env      [][2]string // variables that belong to others: AWS_*, PG*, OTEL_*
	exits    []int
}

type example struct{ what, command string }

// manual is implemented by every verb.
type manual interface{ manual() page }

// Variables of others, as the pages name them.
var (
	envWebhook = [2]string{secretVariable, "The secret that signs the webhook's posts, unless --webhook-secret-file has it; two, separated by a space, while it is being changed."}
	envPG      = [2]string{"PGHOST, PGUSER, ...", "What --database-url leaves out, as psql reads it."}
	envAWS     = [2]string{"AWS_PROFILE, AWS_REGION, ...", "Who we are on AWS, as the AWS SDK and CLI read it; also ~/.aws, web identity and instance roles."}
	envOTEL    = [2]string{"OTEL_EXPORTER_OTLP_...", "Where traces go, as OpenTelemetry defines it; also OTEL_TRACES_EXPORTER (otlp, console, none) and OTEL_SDK_DISABLED. With none of them nothing is sent. A value that cannot be meant is ignored, with a warning. /metrics is always there."}
	envColor   = [2]string{"NO_COLOR", "Set: no colours."}
)

// printHelp prints a page of a manual for the selected verb, or the table of contents.
func (c *console) printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	node := ctx.Selected()
	if node == nil {
		node = ctx.Model.Node
	}
	h := helpWriter{console: c}
	h.section("Name", ctx.Model.Name+strings.TrimSuffix(" "+node.Path(), " ")+" - "+sentence(node.Help))
	h.heading("Usage")
	h.line(synopsis(ctx.Model.Name, node))

	p := aboutAll
	if m, ok := node.Target.Addr().Interface().(manual); ok && node.Type != kong.ApplicationNode {
		p = m.manual()
	}
	if p.about != "" {
		h.section("Description", p.about)
	}
	h.commands(node)
	h.arguments(node)
	h.flags(node)
	h.environment(p, node)
	h.examples(p)
	if len(p.exits) > 0 {
		h.heading("Exit status")
		for _, code := range p.exits {
			fmt.Fprintf(&h.b, "%s%-6d", indent, code)
			h.hang(len(indent)+6, exitMeaning[code])
		}
	}
	if len(node.Children) > 0 {
		h.heading("See also")
		h.line(ctx.Model.Name + strings.TrimSuffix(" "+node.Path(), " ") + " <command> --help")
	}
	_, err := io.WriteString(c.out, h.b.String())
	return err
}

// synopsis is the usage line, with what is required spelled out.
func synopsis(app string, node *kong.Node) string {
	s := app + strings.TrimSuffix(" "+node.Path(), " ")
	if len(node.Children) > 0 {
		return s + " <command>"
	}
	optional := false
	for _, f := range node.Flags {
		if f.Required {
			s += " " + f.Summary()
		} else if !f.Hidden {
			optional = true
		}
	}
	for _, a := range node.Positional {
		s += " " + a.Summary()
	}
	if optional {
		s += " [flags]"
	}
	return s
}

// helpWriter lays a page out: headings at the margin, everything else below them.
type helpWriter struct {
	*console
	b strings.Builder
}

const indent = "    "

func (h *helpWriter) heading(title string) {
	if h.b.Len() > 0 {
		h.b.WriteByte('\n')
	}
	h.b.WriteString(h.bold(strings.ToUpper(title)) + "\n")
}

func (h *helpWriter) line(s string) { h.b.WriteString(indent + s + "\n") }

func (h *helpWriter) section(title, body string) {
	h.heading(title)
	for n, paragraph := range strings.Split(strings.Trim(body, "\n"), "\n\n") {
		if n > 0 {
			h.b.WriteByte('\n')
		}
		if strings.HasPrefix(paragraph, "  ") { // verbatim
			for _, l := range strings.Split(paragraph, "\n") {
				h.line(strings.TrimRight(l, " "))
			}
			continue
		}
		h.wrapped(indent, strings.Join(strings.Fields(paragraph), " "))
	}
}

func (h *helpWriter) wrapped(lead, s string) {
	for _, l := range strings.Split(wrap(s, h.width-len(lead)), "\n") {
		h.b.WriteString(lead + l + "\n")
	}
}

// item is a term and what it means, side by side when the term is short, else below it.
func (h *helpWriter) item(term, meaning string) {
	const column = 30
	width := text.StringWidthWithoutEscSequences(term)
	if width > column-2 {
		h.line(h.bold(term))
		h.wrapped(indent+strings.Repeat(" ", 8), meaning)
		return
	}
	h.b.WriteString(indent + h.bold(term) + strings.Repeat(" ", column-width))
	h.hang(len(indent)+column, meaning)
}

// hang finishes a line that already has n columns.
func (h *helpWriter) hang(n int, s string) {
	lines := strings.Split(wrap(s, h.width-n), "\n")
	h.b.WriteString(strings.Join(lines, "\n"+strings.Repeat(" ", n)) + "\n")
}

func (h *helpWriter) commands(node *kong.Node) {
	seen := ""
	for _, child := range node.Children {
		if child.Hidden {
			continue
		}
		title := "Commands"
		if child.Group != nil {
			title = child.Group.Title
		}
		if title != seen {
			h.heading(title)
			seen = title
		}
		if len(child.Children) == 0 || node.Type != kong.ApplicationNode {
			h.item(strings.TrimSpace(child.Name+" "+positionals(child)), child.Help)
			continue
		}
		names := make([]string, 0, len(child.Children))
		for _, grandchild := range child.Children {
			names = append(names, grandchild.Name)
		}
		h.item(child.Name+" "+strings.Join(names, "|"), child.Help)
	}
}

func positionals(node *kong.Node) string {
	var names []string
	for _, a := range node.Positional {
		names = append(names, a.Summary())
	}
	return strings.Join(names, " ")
}

func (h *helpWriter) arguments(node *kong.Node) {
	if len(node.Positional) == 0 {
		return
	}
	h.heading("Arguments")
	for _, a := range node.Positional {
		h.item("<"+a.Name+">", a.Help)
	}
}

// flags prints the flags by group, each with its default and its variable.
func (h *helpWriter) flags(node *kong.Node) {
	seen := []string{}
	byTitle := map[string][]*kong.Flag{}
	for _, f := range node.Flags {
		if f.Hidden || f.Name == "help" {
			continue
		}
		title := "Options"
		if f.Group != nil {
			title = f.Group.Title
		}
		if !slices.Contains(seen, title) {
			seen = append(seen, title)
		}
		byTitle[title] = append(byTitle[title], f)
	}
	for _, title := range seen {
		h.heading(title)
		for _, f := range byTitle[title] {
			h.item(flagTerm(f), flagMeaning(f))
		}
	}
}

func flagTerm(f *kong.Flag) string {
	term := "--" + f.Name
	if f.Short != 0 {
		term = "-" + string(f.Short) + ", " + term
	}
	if !f.IsBool() {
		term += "=" + flagValue(f)
	}
	return term
}

// flagValue is the word that stands for the value.
func flagValue(f *kong.Flag) string {
	switch {
	case f.PlaceHolder != "":
		return f.PlaceHolder
	case f.Enum != "":
		return strings.Join(slices.DeleteFunc(f.EnumSlice(), func(s string) bool { return s == "" }), "|")
	}
	switch f.Target.Interface().(type) {
	case time.Duration:
		return "TIME"
	case byteSize, *byteSize, *tenantSize:
		return "SIZE"
	case int:
		return "N"
	default:
		return strings.ToUpper(f.Name[strings.LastIndex(f.Name, "-")+1:])
	}
}

func flagMeaning(f *kong.Flag) string {
	s := f.Help
	if f.HasDefault && f.Default != "" && !f.IsBool() {
		s += " Default: " + f.Default + "."
	}
	if f.IsCumulative() {
		s += " May be repeated."
	}
	if len(f.Envs) > 0 {
		s += " [$" + f.Envs[0] + "]"
	}
	return s
}

func (h *helpWriter) environment(p page, node *kong.Node) {
	if len(p.env) == 0 && !slices.ContainsFunc(node.Flags, func(f *kong.Flag) bool { return len(f.Envs) > 0 }) {
		return
	}
	h.heading("Environment")
	if slices.ContainsFunc(node.Flags, func(f *kong.Flag) bool { return len(f.Envs) > 0 }) {
		h.wrapped(indent, "A flag with a variable in brackets behind it can be given as that; the flag wins.")
	}
	for _, v := range p.env {
		h.item(v[0], v[1])
	}
}

func (h *helpWriter) examples(p page) {
	if len(p.examples) == 0 {
		return
	}
	h.heading("Examples")
	for n, e := range p.examples {
		if n > 0 {
			h.b.WriteByte('\n')
		}
		if e.what != "" {
			h.wrapped(indent, e.what)
		}
		for _, l := range strings.Split(e.command, "\n") {
			if strings.HasPrefix(l, " ") { // goes on from the line before
				h.line("  " + l)
				continue
			}
			h.line("  $ " + l)
		}
	}
}

// sentence is a help text as the name line of a manual has it.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + strings.TrimSuffix(s[1:], ".")
}

// aboutAll is the page of the program itself.
var aboutAll = page{
	about: `
A publisher asks for a snapshot of a tenant; any worker of the fleet takes the request from NATS JetStream,
reads the tenant's PostgreSQL schema as of one instant and the tenant's file attachments, streams them as .tar
archives into the tenant's own bucket under a role that the tenant owns, and acknowledges the request only when
everything is uploaded, visible and proven.

What arrives:

  s3://<bucket>/<tenant>/<job>/snapshot_tables_<job>.tar
  s3://<bucket>/<tenant>/<job>/snapshot_attachments_<job>.tar
  s3://<bucket>/<tenant>/<job>/manifest.json        written last: present means whole`,
	examples: []example{
		{
			"Once: create what the fleet needs in JetStream, and register a tenant.",
			"snapfleet setup\nsnapfleet tenant set acme --bucket=acme-snapshots --region=eu-central-1 \\\n      --role-arn=arn:aws:iam::123456789012:role/snapfleet",
		},
		{"Run a worker, as many as you like.", "snapfleet worker"},
		{
			"Ask for a snapshot, watch it, and prove what arrived.",
			"snapfleet submit acme --wait\nsnapfleet verify s3://acme-snapshots/acme/2026-03-31-143022/",
		},
	},
	env: [][2]string{
		{"SNAPFLEET_...", "Flags for connections, for the worker and for its log: --some-name as SNAPFLEET_SOME_NAME; the flag wins. One that nothing reads is warned of."},
		envPG, envAWS, envOTEL, envColor,
	},
	exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnproven, exitJobFailed, exitUnreachable, exitInterrupted},
}

// configTableCmd writes the table of the worker's configuration that README.md has between its markers.
type configTableCmd struct{}

func (configTableCmd) manual() page { return page{} }

// Run prints the table.
func (configTableCmd) Run(c *console, model *kong.Application) error {
	_, err := io.WriteString(c.out, configTable(model))
	return err
}

func configTable(model *kong.Application) string {
	var b strings.Builder
	b.WriteString("| Flag | Variable | Default | What |\n|---|---|---|---|\n")
	for _, child := range model.Children {
		if child.Name != "worker" {
			continue
		}
		group := ""
		for _, f := range child.Flags {
			if f.Hidden || f.Name == "help" {
				continue
			}
			if f.Group != nil && f.Group.Title != group {
				group = f.Group.Title
				fmt.Fprintf(&b, "| **%s** | | | |\n", group)
			}
			fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", code(flagTerm(f)), strings.Join(f.Envs, " "), code(f.Default), cell(f.Help))
		}
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + cell(s) + "`"
}

// cell keeps a text inside its cell.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(s)
}
