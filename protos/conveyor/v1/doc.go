// Package conveyorv1 is the protocol between Conveyor and the services that feed, change and take its records.
package conveyorv1
