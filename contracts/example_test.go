package contracts_test

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/snapfleet/snapfleet/contracts"
)

// What a publisher puts on the queue, and where.
func ExampleRequest() {
	r := contracts.Request{
		Version:     contracts.RequestVersion,
		Tenant:      "acme",
		Job:         "2026-03-31-143022",
		RequestedAt: time.Date(2026, 3, 31, 14, 30, 22, 0, time.UTC),
	}
	body, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	fmt.Println(contracts.RequestSubject(r.Tenant))
	fmt.Println(string(body))
	// Output:
	// snapshot.request.acme
	// {"version":1,"tenant":"acme","job":"2026-03-31-143022","requested_at":"2026-03-31T14:30:22Z"}
}

// A request is read strictly, and what is wrong with it has a code.
func ExampleDecodeRequest() {
	_, err := contracts.DecodeRequest([]byte(`{"version":1,"tenant":"acme","job":"../other","requested_at":"2026-03-31T14:30:22Z"}`))
	if r, ok := contracts.AsRejection(err); ok {
		fmt.Println(r.Code)
		fmt.Println(r.Reason().What)
	}
	// Output:
	// invalid_request
	// job "../other" is not 1 to 64 of A-Z a-z 0-9 _ -
}

// Names stay as they are wherever that is safe.
func ExampleTableFiles() {
	for _, name := range contracts.TableFiles([]string{"parts", "bom/lines", "runs", "runs_part1"}, contracts.CSV) {
		fmt.Println(name)
	}
	fmt.Println(contracts.PartFile("runs.csv.gz", 1))
	fmt.Println(contracts.PartFile("runs.jsonl.gz", 2))
	// Output:
	// parts.csv.gz
	// bom%2Flines.csv.gz
	// runs.csv.gz
	// runs_part1~acf3964b.csv.gz
	// runs_part1.csv.gz
	// runs_part2.jsonl.gz
}

func ExampleAttachmentFile() {
	fmt.Println(contracts.AttachmentFile("4711", "drawing: rev A.pdf"))
	fmt.Println(contracts.AttachmentFile("4712", "../../.ssh/authorized_keys"))
	// Output:
	// 4711/drawing%3A rev A.pdf
	// 4712/%2E.%2F..%2F.ssh%2Fauthorized_keys
}

func ExampleVolumeName() {
	fmt.Println(contracts.JobPrefix("acme", "2026-03-31-143022") + contracts.VolumeName(contracts.Tables, "2026-03-31-143022", 0))
	fmt.Println(contracts.JobPrefix("acme", "big") + contracts.VolumeName(contracts.Attachments, "big", 2))
	// Output:
	// acme/2026-03-31-143022/snapshot_tables_2026-03-31-143022.tar
	// acme/big/snapshot_attachments_part2_big.tar
}

// A receipt travels in pieces, and is only believed when all of them are what they were.
func ExampleReceipt_Pieces() {
	pieces, digest, err := contracts.Receipt{Version: contracts.ReceiptVersion, Attempt: "1-9f86d081884c7d65"}.Pieces()
	if err != nil {
		panic(err)
	}
	r, err := contracts.JoinReceipt(pieces, digest)
	fmt.Println(r.Attempt, err)
	_, err = contracts.JoinReceipt(pieces[1:], digest)
	fmt.Println(err)
	// Output:
	// 1-9f86d081884c7d65 <nil>
	// receipt: 0 pieces do not have the recorded digest
}

func ExampleReject() {
	err := contracts.Reject(contracts.WrongRegion, "bucket acme-snapshots is in eu-west-1, not us-west-2")
	fmt.Println(err)
	// Output:
	// wrong_region: bucket acme-snapshots is in eu-west-1, not us-west-2; fix: send us the region that the S3 console shows for the bucket
}
