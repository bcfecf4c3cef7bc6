package forward

import (
	"errors"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// types are those of the messages that a method takes and gives.
type types struct{ req, resp protoreflect.MessageType }

func typesOf(fullMethod string) (types, error) {
	service, method, ok := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if !ok {
		return types{}, errUnknown(fullMethod)
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return types{}, errUnknown(fullMethod)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return types{}, errUnknown(fullMethod)
	}
	md := sd.Methods().ByName(protoreflect.Name(method))
	if md == nil {
		return types{}, errUnknown(fullMethod)
	}
	in, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName())
	if err != nil {
		return types{}, errUnknown(fullMethod)
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(md.Output().FullName())
	if err != nil {
		return types{}, errUnknown(fullMethod)
	}
	return types{in, out}, nil
}

// proxy joins a caller's stream to one of the leader, message by message: neither side is read faster than the other takes.
func (f *Forwarder) proxy(caller grpc.ServerStream, info *grpc.StreamServerInfo, to target) error {
	of, err := typesOf(info.FullMethod)
	if err != nil {
		return err
	}
	link, err := f.reach(caller.Context(), to)
	if err != nil {
		return err
	}
	defer link.give()
	desc := &grpc.StreamDesc{ServerStreams: info.IsServerStream, ClientStreams: info.IsClientStream}
	out, cancel := link.bind(f.outgoing(caller.Context()))
	defer cancel()
	leader, err := link.conn.NewStream(out, desc, info.FullMethod)
	if err != nil {
		return err
	}
	// Ends with the caller's stream, which ends when this call returns.
	go upward(caller, leader, of.req, info.IsClientStream)
	for {
		resp := of.resp.New().Interface()
		err = leader.RecvMsg(resp)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := caller.SendMsg(resp); err != nil {
			return err
		}
	}
}

// upward passes on what the caller sends. What goes wrong here is what the other direction ends with.
func upward(caller grpc.ServerStream, leader grpc.ClientStream, request protoreflect.MessageType, several bool) {
	for {
		req := request.New().Interface()
		if err := caller.RecvMsg(req); err != nil {
			if errors.Is(err, io.EOF) {
				_ = leader.CloseSend()
			}
			return
		}
		if err := leader.SendMsg(req); err != nil {
			return
		}
		if !several {
			_ = leader.CloseSend()
			return
		}
	}
}

// reasonNotLeader is what a router that does not lead says, of a call that it did not carry out.
const reasonNotLeader = "NOT_LEADER"

func isNotLeader(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == reasonNotLeader {
			return true
		}
	}
	return false
}
