package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfleet/snapfleet/test/world"
)

// What people use. $UPLOAD is `aws s3 cp`, or its stand-in.
const (
	script = `
for t in $TABLES; do psql -Xq -c "COPY bench.$t TO STDOUT (FORMAT csv, HEADER)" "$DATABASE" | gzip > $t.csv.gz; done
tar -cf all.tar *.csv.gz
$UPLOAD all.tar $TARGET`

	scriptTuned = `
printf '%s\n' $TABLES | xargs -P2 -I{} bash -eo pipefail -c 'psql -Xq -c "COPY bench.{} TO STDOUT (FORMAT csv, HEADER)" "$DATABASE" | gzip -1 > {}.csv.gz'
tar -cf - *.csv.gz | $UPLOAD - $TARGET`

	dumped = `
pg_dump -Fd -j2 -Z1 -n bench -f dump "$DATABASE"
tar -cf all.tar dump
$UPLOAD all.tar $TARGET`
)

// peers are the scripts, and uploads says what they upload with.
func (g *ground) peers(ctx context.Context, install bool) (peers []contender, uploads string, err error) {
	bin, err := world.Binaries(ctx)
	if err != nil {
		return nil, "", err
	}
	path := bin + string(os.PathListSeparator) + os.Getenv("PATH")
	command, uploads, err := g.uploader(ctx, install)
	if err != nil {
		return nil, "", err
	}
	var names []string
	for _, t := range tables {
		names = append(names, t.name)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "PG") })
	for _, v := range g.cloud.Environ(peer) {
		if !strings.HasSuffix(v, "=") { // the aws command looks for a profile without a name
			env = append(env, v)
		}
	}
	env = append(env, "PATH="+path, "AWS_DEFAULT_REGION="+g.cloud.Region(), "DATABASE="+g.database, "TABLES="+strings.Join(names, " "), "UPLOAD="+command)
	for _, p := range []struct{ name, text string }{{"script", script}, {"script_tuned", scriptTuned}, {"pg_dump", dumped}} {
		peers = append(peers, contender{p.name, func(ctx context.Context) (Cost, error) { return g.script(ctx, p.name, p.text, env) }})
	}
	return peers, uploads, nil
}

// script runs one in a folder of its own, and looks whether it has delivered.
func (g *ground) script(ctx context.Context, name, text string, env []string) (cost Cost, err error) {
	dir, err := os.MkdirTemp(g.temp, name+"-")
	if err != nil {
		return Cost{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	key := name + ".tar"
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", text)
	cmd.Dir, cmd.Env = dir, append(env[:len(env):len(env)], "TARGET=s3://"+store+"/"+key)
	if cost, err = metered(ctx, cmd); err != nil {
		return Cost{}, err
	}
	found, err := g.cloud.Admin().HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(store), Key: &key})
	if err != nil {
		return Cost{}, fmt.Errorf("nothing was delivered: %w", err)
	}
	cost.Delivered = aws.ToInt64(found.ContentLength)
	return cost, nil
}

// uploader is the command that copies a file, or -, to s3://bucket/key, and what to call it.
func (g *ground) uploader(ctx context.Context, install bool) (command, name string, err error) {
	program := "aws"
	if _, err := exec.LookPath(program); err != nil && install {
		say("installing awscli")
		venv := filepath.Join(g.temp, "venv")
		program = filepath.Join(venv, "bin", "aws")
		for _, args := range [][]string{{"python3", "-m", "venv", venv}, {filepath.Join(venv, "bin", "pip"), "install", "-q", "awscli"}} {
			if _, err := execute(ctx, exec.Command(args[0], args[1:]...)); err != nil {
				return "", "", fmt.Errorf("install awscli: %s: %w", args[0], err)
			}
		}
	}
	if out, err := exec.CommandContext(ctx, program, "--version").CombinedOutput(); err == nil {
		name, _, _ = strings.Cut(strings.TrimSpace(string(out)), " ")
		return program + " s3 cp --only-show-errors", name, nil
	}
	self, err := os.Executable()
	return self + " " + standIn, "stand-in for aws s3 cp (there is no aws command): parts of 8 MiB, ten at a time", err
}
