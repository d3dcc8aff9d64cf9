package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/snapfleet/snapfleet/contracts"
	templates "github.com/snapfleet/snapfleet/deploy/customer"
)

type policyCmd struct {
	Tenant string `arg:"" help:"Name of the tenant."`
	As     string `enum:"trust,permissions,key,cloudformation,terraform,aws-cli," default:"" help:"Print this document alone: a policy, or a template that creates bucket, role and policies. Default: every policy, with headings."`
	JSON   bool   `name:"json" help:"Print the policies as one JSON object: trust, permissions, key."`
	Out    string `type:"path" placeholder:"DIR" help:"Write every document into a folder, or the one that --as names, and print the files' names. No file that says something else is overwritten."`

	Account         string `group:"s3" placeholder:"ACCOUNT" env:"SNAPFLEET_ACCOUNT" help:"Our own account, 12 digits, which the trust policy lets in. Default: the account of our AWS credentials, as STS says."`
	Bucket          string `group:"s3" placeholder:"NAME" help:"The customer's bucket. Default: the record's."`
	Region          string `group:"s3" placeholder:"REGION" help:"Region of the bucket, such as eu-central-1. Default: the record's."`
	CustomerAccount string `group:"s3" placeholder:"ACCOUNT" help:"Account that the role is in, 12 digits. Default: the record's."`
	RoleName        string `group:"s3" placeholder:"NAME" help:"Name of the role. Default: the record's, or snapfleet-delivery."`
	KMSKey          string `name:"kms-key" group:"s3" placeholder:"ARN" help:"KMS key that the bucket encrypts with. Default: the record's."`

	verbFlags
}

func (policyCmd) manual() page {
	return page{
		about: `
Prints what a customer sets up in their own AWS account, filled in for one tenant: the role's trust policy, which
lets our account in, and only with the tenant's external ID; the role's permission policy, and with a KMS key the
statement for the key's policy; or, with --as, a CloudFormation template, a Terraform module or a script for the
AWS CLI that creates the bucket, the role and its policies. The three create the same.

Values come from the tenant's record. What it does not know yet, flags say, and a flag wins over the record. While
the external ID is being rotated, the trust policy accepts both.

The external ID is in what is printed. It is no password, but it belongs in no ticket and no log.`,
		examples: []example{
			{"The policies.", "snapfleet policy acme --account=111111111111"},
			{"For a customer who has nothing yet.", "snapfleet policy acme --bucket=acme-snapshots --region=eu-central-1 --as=cloudformation"},
			{"Every file, to be sent.", "snapfleet policy acme --out=./acme"},
		},
		env:   [][2]string{envAWS},
		exits: []int{exitOK, exitFailed, exitUsage, exitNotFound, exitRejected, exitUnreachable, exitInterrupted},
	}
}

// Run prints, or writes, the documents.
func (p *policyCmd) Run(ctx context.Context, c *console) error {
	if err := checkNames(p.Tenant, ""); err != nil {
		return err
	}
	if p.JSON && (p.Out != "" || p.As != "" && !templates.Document(p.As).Policy()) {
		return usagef("--json prints policies: leave out --out, and --as=%s", p.As)
	}
	registry, done, err := openRegistry(ctx, p.verbFlags)
	if err != nil {
		return err
	}
	defer done()
	record, err := registry.Get(ctx, p.Tenant)
	if err != nil {
		return err
	}
	texts, err := p.render(ctx, record)
	if err != nil {
		return err
	}
	switch {
	case p.Out != "":
		err = writeDocuments(c, p.Out, texts)
	case p.JSON:
		err = printPolicies(c, texts)
	case p.As != "":
		_, err = fmt.Fprint(c.out, texts[0].body)
	default:
		for n, t := range texts {
			if n > 0 {
				fmt.Fprintln(c.out)
			}
			fmt.Fprintf(c.out, "%s\n\n%s", c.bold(policyHeadings[t.document]), t.body)
		}
	}
	if err == nil && record.Destination.NextExternalID != "" {
		fmt.Fprintln(c.err, wrap("A rotation of the external ID is under way: the trust policy accepts the old one and the new one.", c.width))
	}
	return err
}

var policyHeadings = map[templates.Document]string{
	templates.Trust:       "Trust policy of the role",
	templates.Permissions: "Permission policy of the role",
	templates.Key:         "Statement for the policy of the KMS key",
}

// filledIn is a document and what it says.
type filledIn struct {
	document templates.Document
	body     string
}

// render fills in what was asked for.
func (p *policyCmd) render(ctx context.Context, record contracts.Tenant) (texts []filledIn, err error) {
	v := p.values(record.Destination)
	for _, d := range p.documents(v) {
		if d.NeedsAccount() && v.Account == "" {
			if v.Account, err = ourAccount(ctx, v.Region); err != nil {
				return nil, err
			}
		}
		if missing := d.Needs(v); len(missing) > 0 {
			return nil, unknownValues(record.Name, d, missing)
		}
		if owner := record.Destination.Owner; !d.Policy() && owner != "" && owner != v.CustomerAccount {
			return nil, explain(exitUsage, fmt.Errorf("the bucket of %s is in account %s, and the role in another", record.Name, owner),
				"the templates create both in one account",
				"print the policies alone; the bucket's own policy has to allow the role the same actions")
		}
		body, err := d.Render(v)
		if _, rejected := contracts.AsRejection(err); err != nil && !rejected {
			return nil, usagef("%w", err)
		}
		if err != nil {
			return nil, err
		}
		texts = append(texts, filledIn{d, body})
	}
	return texts, nil
}

// documents are those that were asked for.
func (p *policyCmd) documents(v templates.Values) (list []templates.Document) {
	if p.As != "" {
		return []templates.Document{templates.Document(p.As)}
	}
	for _, d := range templates.Documents {
		if d == templates.Key && v.KMSKeyARN == "" || !d.Policy() && p.Out == "" {
			continue
		}
		list = append(list, d)
	}
	return list
}

// values lays the flags over what the record has.
func (p *policyCmd) values(d contracts.Destination) templates.Values {
	v := templates.Values{
		Tenant: p.Tenant, Account: p.Account, Bucket: d.Bucket, Region: d.Region, KMSKeyARN: d.KMSKeyARN,
	}
	for _, id := range []string{d.ExternalID, d.NextExternalID} {
		if id != "" {
			v.ExternalIDs = append(v.ExternalIDs, id)
		}
	}
	if account, name, ok := strings.Cut(d.RoleARN, ":role/"); ok {
		v.CustomerAccount = account[strings.LastIndex(account, ":")+1:]
		cut := strings.LastIndex(name, "/") + 1
		v.Path, v.RoleName = "/"+name[:cut], name[cut:]
	}
	if p.RoleName != "" { // another role than the record's is where people look for it
		v.Path = ""
	}
	for field, flag := range map[*string]string{
		&v.Bucket: p.Bucket, &v.Region: p.Region, &v.CustomerAccount: p.CustomerAccount, &v.RoleName: p.RoleName, &v.KMSKeyARN: p.KMSKey,
	} {
		if flag != "" {
			*field = flag
		}
	}
	return v
}

// unknownValues says which flags would help.
func unknownValues(tenant string, d templates.Document, missing []string) error {
	var flags []string
	for _, field := range missing {
		switch field {
		case "Bucket":
			flags = append(flags, "--bucket")
		case "Region":
			flags = append(flags, "--region")
		case "CustomerAccount":
			flags = append(flags, "--customer-account")
		case "KMSKeyARN":
			flags = append(flags, "--kms-key")
		default: // the record has none
			return fmt.Errorf("the record of %s has no external ID", tenant)
		}
	}
	return explain(exitUsage, fmt.Errorf("%s of %s cannot be filled in", d.File(), tenant),
		"the tenant's record does not say what it needs", "give "+strings.Join(flags, " and "))
}

// ourAccount asks STS whose credentials we have.
func ourAccount(ctx context.Context, region string) (string, error) {
	const fix = "give --account (SNAPFLEET_ACCOUNT), or credentials of our account (see AWS_PROFILE)"
	cloud, err := loadAWS(ctx)
	if err != nil {
		return "", err
	}
	if cloud.Region == "" {
		cloud.Region = region
	}
	if cloud.Region == "" {
		cloud.Region = "us-east-1" // any answers
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := cloud.Credentials.Retrieve(ctx); err != nil {
		return "", explain(exitUsage, errors.New("our own account is not known"), "there is neither --account nor a login at AWS to ask with", fix)
	}
	who, err := sts.NewFromConfig(cloud).GetCallerIdentity(ctx, nil)
	if answer, ok := errors.AsType[smithy.APIError](err); ok {
		return "", explain(exitRejected, fmt.Errorf("our own account is not known: STS answers %s", answer.ErrorCode()), "these credentials are not valid", fix)
	}
	if err != nil {
		return "", explain(0, fmt.Errorf("our own account is not known: ask STS: %w", err), "STS does not answer", fix)
	}
	if who.Account == nil {
		return "", explain(exitFailed, errors.New("our own account is not known: STS names none"), "", fix)
	}
	return *who.Account, nil
}

// printPolicies prints one object.
func printPolicies(c *console, texts []filledIn) error {
	policies := map[templates.Document]json.RawMessage{}
	for _, t := range texts {
		policies[t.document] = json.RawMessage(t.body)
	}
	return c.json(policies, true)
}

// writeDocuments writes all or, where something else stands in the way, none. They are for our own eyes until they are
// sent.
func writeDocuments(c *console, dir string, texts []filledIn) error {
	for _, t := range texts {
		name := filepath.Join(dir, t.document.File())
		switch there, err := os.ReadFile(name); {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return fmt.Errorf("look for %s: %w", name, err)
		case !bytes.Equal(there, []byte(t.body)):
			return explain(exitUsage, fmt.Errorf("%s is there already, and says something else", name),
				"it is of another tenant, of other values, or not of snapfleet", "choose another --out, or remove the file")
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	for _, t := range texts {
		name, mode := filepath.Join(dir, t.document.File()), os.FileMode(0o600)
		if t.document == templates.AWSCLI {
			mode = 0o700
		}
		if err := os.WriteFile(name, []byte(t.body), mode); err != nil {
			return fmt.Errorf("write a document: %w", err)
		}
		fmt.Fprintln(c.out, name)
	}
	return nil
}
