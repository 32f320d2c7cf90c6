//! The tonic transport against a real socket on loopback.

use std::pin::Pin;

use caribou_proto::meta::v1::meta_service_server::{MetaService, MetaServiceServer};
use caribou_proto::meta::v1::*;
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::meta::{GrpcTransport, Transport};

/// Welcomes, then answers each renewal with its stamp.
struct Echo;

#[tonic::async_trait]
impl MetaService for Echo {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<ServerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let body = match message?.body {
                Some(client_message::Body::Hello(hello)) => {
                    server_message::Body::Welcome(Welcome { session_id: hello.session_id + 1, ..Welcome::default() })
                }
                Some(client_message::Body::Renew(renew)) => {
                    server_message::Body::Renewed(Renewed { stamp: renew.stamp })
                }
                _ => return Err(Status::invalid_argument("unexpected")),
            };
            Ok(ServerMessage { body: Some(body) })
        });
        Ok(Response::new(answers.boxed()))
    }
}

#[tokio::test]
async fn a_stream_carries_messages_in_order_and_a_dead_node_is_an_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(
        tonic::transport::Server::builder().add_service(MetaServiceServer::new(Echo)).serve_with_incoming(incoming),
    );
    let transport = GrpcTransport::default();
    let hello =
        |id| ClientMessage { body: Some(client_message::Body::Hello(Hello { session_id: id, ..Hello::default() })) };
    for id in 0..3 {
        let mut link = transport.dial(&address, hello(id)).await.expect("dials");
        for stamp in 0..500 {
            let renew = ClientMessage { body: Some(client_message::Body::Renew(Renew { stamp })) };
            link.sender.send(renew).await.expect("open");
        }
        let first = link.receiver.next().await.expect("a message").expect("no error");
        assert!(matches!(first.body, Some(server_message::Body::Welcome(w)) if w.session_id == id + 1));
        for stamp in 0..500 {
            let next = link.receiver.next().await.expect("a message").expect("no error");
            assert_eq!(next.body, Some(server_message::Body::Renewed(Renewed { stamp })));
        }
    }
    server.abort();
    let _ = server.await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").to_string();
    let error = transport.dial(&free, hello(0)).await.err().expect("nobody listens");
    assert!(error.0.contains("refused"), "{error}");
    let error = transport.dial("no address", hello(0)).await.err().expect("not an address");
    assert!(error.0.contains("host:port"), "{error}");
}
