//! Passes bytes on, and cuts connections in the middle of them.

use coordinator_harness::rng;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(crate) fn background(work: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "tests own their tasks")]
    drop(tokio::spawn(work));
}

#[derive(Debug)]
pub(crate) struct Cutter {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    service: SocketAddr,
    at_random: AtomicBool,
    refuse: watch::Sender<bool>,
    cuts: AtomicUsize,
}

impl Cutter {
    pub(crate) async fn start(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            service,
            at_random: AtomicBool::new(false),
            refuse: watch::Sender::new(false),
            cuts: AtomicUsize::new(0),
        });
        background(accept(listener, shared.clone(), rng()));
        Self { addr, shared }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts each connection after some hundred bytes of what comes back.
    pub(crate) fn cut_at_random(&self, cut: bool) {
        self.shared.at_random.store(cut, Ordering::Relaxed);
    }

    /// Cuts what there is, and whatever comes.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.refuse.send_replace(refuse);
    }

    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut rng: StdRng) {
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        let (shared, rng) = (shared.clone(), StdRng::seed_from_u64(rng.random()));
        background(async move {
            let mut refused = shared.refuse.subscribe();
            tokio::select! {
                biased;
                _ = refused.wait_for(|refused| *refused) => {}
                () = pass(client, &shared, rng) => {}
            }
        });
    }
}

async fn pass(mut client: TcpStream, shared: &Shared, mut rng: StdRng) {
    // What is cut is reset, not ended.
    let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
    let Ok(mut service) = TcpStream::connect(shared.service).await else { return };
    let (mut asks, mut asked) = client.split();
    let (mut answers, mut answered) = service.split();
    let back = async {
        let mut budget = rng.random_range(200..1200_usize);
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = answers.read(&mut buffer).await {
            let cut = shared.at_random.load(Ordering::Relaxed) && count >= budget;
            let count = if cut { budget } else { count };
            budget = budget.saturating_sub(count);
            if asked.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            if cut {
                shared.cuts.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    };
    tokio::select! {
        () = back => {}
        _ = tokio::io::copy(&mut asks, &mut answered) => {}
    }
}
