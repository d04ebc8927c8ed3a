//! SeaStreamer over Redis streams, as its documentation says.

use super::{Channel, Listener};
use anyhow::Result;
use futures::future::BoxFuture;
use sea_streamer_redis::{
    RedisConnectOptions, RedisConsumer, RedisConsumerOptions, RedisProducer, RedisProducerOptions,
    RedisStreamer,
};
use sea_streamer_types::{
    Buffer as _, Consumer as _, ConsumerMode, ConsumerOptions as _, Message as _, Producer as _,
    StreamKey, Streamer as _,
};

struct Sea {
    streamer: RedisStreamer,
    producer: RedisProducer,
    key: StreamKey,
}

impl Channel for Sea {
    fn publish<'a>(&'a self, _: u64, text: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.producer.send_to(&self.key, text)?.await?;
            Ok(())
        })
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>>> {
        Box::pin(async {
            let options = RedisConsumerOptions::new(ConsumerMode::RealTime);
            let keys = [self.key.clone()];
            let consumer = self.streamer.create_consumer(&keys, options).await?;
            Ok(Box::new(Heard(consumer)) as Box<dyn Listener>)
        })
    }
}

struct Heard(RedisConsumer);

impl Listener for Heard {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<String>>> {
        Box::pin(async {
            let message = self.0.next().await?;
            Ok(Some(message.message().as_str()?.to_owned()))
        })
    }
}

pub(super) async fn open(url: &str, name: &str) -> Result<Box<dyn Channel>> {
    let streamer = RedisStreamer::connect(url.parse()?, RedisConnectOptions::default()).await?;
    let producer = streamer.create_generic_producer(RedisProducerOptions::default()).await?;
    Ok(Box::new(Sea { streamer, producer, key: StreamKey::new(name)? }))
}
