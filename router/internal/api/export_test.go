package api

// ToWire is the table of errors, for its test.
var ToWire = toWire
