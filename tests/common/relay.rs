//! A TCP relay that breaks connections on demand, for failures that HTTP cannot show.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Listens on a port of its own and forwards connections to a server.
pub struct Relay {
    /// The address on which it listens, which never changes.
    pub address: SocketAddr,
    target: SocketAddr,
    /// Whether bytes are forwarded. Otherwise connections are accepted and stay open, but carry nothing.
    carries: watch::Sender<bool>,
    connections: Arc<Mutex<JoinSet<()>>>,
    listening: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay to this server.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (carries, _) = watch::channel(true);
        let mut relay = Self { address, target, carries, connections: Arc::default(), listening: None };
        relay.listen(listener);
        relay
    }

    fn listen(&mut self, listener: TcpListener) {
        let (target, carries, connections) =
            (self.target, self.carries.subscribe(), Arc::clone(&self.connections));
        self.listening = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let carries = carries.clone();
                connections.lock().unwrap().spawn(async move {
                    let server = TcpStream::connect(target).await.unwrap();
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::join!(
                        carry(from_client, to_server, carries.clone()),
                        carry(from_server, to_client, carries)
                    );
                });
            }
        }));
    }

    /// Cuts all connections, and refuses new ones until [`Relay::restart`].
    pub async fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            // It was cancelled on purpose.
            let _ = listening.await;
        }
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
        connections.shutdown().await;
    }

    /// Listens again, on the same port.
    pub fn restart(&mut self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.listen(socket.listen(16).unwrap());
    }

    /// Sets whether bytes are forwarded. If not, connections are half open: neither end learns that they are dead.
    pub fn carry(&self, carries: bool) {
        self.carries.send_replace(carries);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut carries: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        if carries.wait_for(|carries| *carries).await.is_err() {
            return;
        }
        let count = tokio::select! {
            count = from.read(&mut bytes) => count.unwrap_or(0),
            _ = carries.wait_for(|carries| !*carries) => continue,
        };
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
