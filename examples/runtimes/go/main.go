// Command bootstrap echoes its event; it fails, waits or exits if the event asks for it.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type answer struct {
	Function    string         `json:"function"`
	RequestID   string         `json:"request_id"`
	RemainingMs int64          `json:"remaining_ms"`
	Event       map[string]any `json:"event"`
}

func handle(ctx context.Context, event map[string]any) (answer, error) {
	about, _ := lambdacontext.FromContext(ctx)
	log.Printf("echoing %s", about.AwsRequestID)
	if event["fail"] == true {
		return answer{}, errors.New("the event asks for it")
	}
	if seconds, ok := event["wait"].(float64); ok {
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
	if status, ok := event["exit"].(float64); ok {
		os.Exit(int(status))
	}
	deadline, _ := ctx.Deadline()
	return answer{
		Function:    lambdacontext.FunctionName,
		RequestID:   about.AwsRequestID,
		RemainingMs: time.Until(deadline).Milliseconds(),
		Event:       event,
	}, nil
}

func main() {
	lambda.Start(handle)
}
