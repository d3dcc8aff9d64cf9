package contracts

// A question is a NATS request on [AskSubject], which one of the workers answers at once: with JSON, or with an error of
// NATS' micro services. The code of that is a [Code], or one of the two below.
const (
	// AnswerUnavailable is the code of a worker that cannot answer now: ask again, and another one may.
	AnswerUnavailable = "unavailable"
	// AnswerFailed is the code of every other error that is no [Rejection].
	AnswerFailed = "failed"
)

// CheckQuestion asks for a [Check] of a tenant's destination.
type CheckQuestion struct {
	Tenant string `json:"tenant"`
	// Next checks with the next external ID, of the rotation that is under way.
	Next bool `json:"next,omitempty"`
}

// LinksQuestion asks for [Links] to the files of a delivery to the house.
type LinksQuestion struct {
	Tenant string `json:"tenant"`
	Job    string `json:"job"`
	// Seconds that the links are good for, 60 to 3600, and no longer than the session of the worker that makes them.
	Seconds int `json:"seconds"`
	// Skip leaves out so many files, from the first on: an answer has some of them, and says whether there are more.
	Skip int `json:"skip,omitempty"`
}
