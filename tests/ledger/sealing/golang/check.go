// Check a log's checkpoint and proofs by Go's own libraries, golang.org/x/mod/sumdb.
//
// Its input is JSON on standard input; it exits with 1 and says why where anything is wrong.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type input struct {
	Key        string // the log's verifier key
	Checkpoint string
	Size       int64  // of the tree that the checkpoint says
	Root       []byte
	Index      int64
	Entry      []byte
	Inclusion  [][]byte
	OldSize    int64
	OldRoot    []byte
	Consistent [][]byte
}

func hashes(all [][]byte) []tlog.Hash {
	var made []tlog.Hash
	for _, each := range all {
		made = append(made, hash(each))
	}
	return made
}

func hash(data []byte) tlog.Hash {
	var made tlog.Hash
	copy(made[:], data)
	return made
}

func check(in input) error {
	verifier, err := note.NewVerifier(in.Key)
	if err != nil {
		return err
	}
	opened, err := note.Open([]byte(in.Checkpoint), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	root := hash(in.Root)
	if lines := strings.Split(opened.Text, "\n"); lines[1] != fmt.Sprint(in.Size) || lines[2] != root.String() {
		return fmt.Errorf("the checkpoint is of another tree")
	}
	record := tlog.RecordHash(in.Entry)
	if err := tlog.CheckRecord(hashes(in.Inclusion), in.Size, root, in.Index, record); err != nil {
		return err
	}
	return tlog.CheckTree(hashes(in.Consistent), in.Size, root, in.OldSize, hash(in.OldRoot))
}

func main() {
	var in input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	if err := check(in); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("good")
}
