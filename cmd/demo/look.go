package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/dustin/go-humanize"

	"github.com/snapfleet/snapfleet/contracts"
)

// lookFurther says how to see more, and writes the environment for it. Then it sums up.
func (d *demo) lookFurther() error {
	env := filepath.Join(d.dir, "env.sh")
	var b strings.Builder
	b.WriteString("# . this file: snapfleet, aws, psql and nats then see the demo's servers, as the customer.\n")
	environ := append(d.store.Environ(d.reader), "SNAPFLEET_NATS_URL="+d.nats.URL(), "NATS_URL="+d.nats.URL(), "SNAPFLEET_DATABASE_URL="+d.database)
	if d.jaeger != nil {
		environ = append(environ, d.jaeger.Environ()...)
	}
	for _, v := range environ {
		name, value, _ := strings.Cut(v, "=")
		if value == "" {
			fmt.Fprintf(&b, "unset %s\n", name)
			continue
		}
		fmt.Fprintf(&b, "export %s=%s\n", name, shellescape.Quote(value))
	}
	fmt.Fprintf(&b, "PATH=%s:$PATH\n", shellescape.Quote(filepath.Dir(d.fleet.binary)))
	if err := os.WriteFile(env, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write the environment: %w", err)
	}

	if *d.Keep {
		d.title("Look further, in another terminal")
		volume := filepath.Join(d.dir, "s3", "objects", customersBucket, contracts.JobPrefix(d.tenant, d.job), contracts.VolumeName(contracts.Tables, d.job, 0))
		for _, line := range [][2]string{
			{"the environment", ". " + shellescape.Quote(env)},
			{"the job", "snapfleet status " + d.tenant + " " + d.job},
			{"the proof, by file", "snapfleet verify --files " + d.delivery()},
			{"the files", "tar tvf " + shellescape.Quote(volume)},
			{"the bucket", "aws s3 ls --recursive " + d.delivery()},
			{"the database", `psql "$SNAPFLEET_DATABASE_URL"`},
			{"again", "snapfleet submit " + d.tenant + " --wait"},
			{"JetStream", d.nats.MonitoringURL() + "/jsz?streams=1&consumers=1"},
			{"a worker", "http://" + d.workers[0].address + "/metrics"},
			{"its log", d.workers[0].log},
			{"its death", fmt.Sprintf("kill -9 %d    (during a job, the other takes it over after a minute or two)", d.workers[0].cmd.Process.Pid)},
		} {
			fmt.Fprintf(d.w, "  %-20s %s\n", line[0], line[1])
		}
		if d.jaeger != nil {
			fmt.Fprintf(d.w, "  %-20s %s\n", "every trace", d.jaeger.URL())
		}
	} else if d.Dir != "" {
		d.title("What is left")
		fmt.Fprintf(d.w, "  %s\n", d.dir)
	} else {
		d.title("Look further")
		fmt.Fprintln(d.w, "  ./bin/demo --keep        keeps everything running, and says how to look at it")
		fmt.Fprintln(d.w, "  ./bin/demo --dir=DIR     keeps the delivery and the logs")
	}

	d.title("How long it took")
	d.sum()
	return nil
}

// memory is what the workers held at most. They have ended.
func (d *demo) memory() error {
	for _, w := range d.workers {
		if w.murdered() {
			fmt.Fprintf(d.w, "%s was killed.\n", w.name)
		}
		if n, known := w.peak(); known {
			fmt.Fprintf(d.w, "%s held at most %s of memory.\n", w.name, humanize.IBytes(uint64(n)))
		}
	}
	return nil
}
