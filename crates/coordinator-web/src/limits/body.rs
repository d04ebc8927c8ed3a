//! The body of a response: the service's own, or the text of a refusal.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

pin_project_lite::pin_project! {
    /// What a [`LimitService`](super::LimitService) answers with: the body of the service behind
    /// it, or that of a refusal.
    #[derive(Debug)]
    pub struct LimitBody<B> {
        #[pin]
        content: Content<B>,
    }
}

pin_project_lite::pin_project! {
    #[project = Projected]
    #[derive(Debug)]
    enum Content<B> {
        Passed { #[pin] body: B },
        Own { text: Option<Bytes> },
    }
}

impl<B> LimitBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self { content: Content::Passed { body } }
    }

    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        Self { content: Content::Own { text: Some(text.into()) } }
    }
}

impl<B: Body<Data = Bytes>> Body for LimitBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().content.project() {
            Projected::Passed { body } => body.poll_frame(context),
            Projected::Own { text } => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Passed { body } => body.is_end_stream(),
            Content::Own { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Passed { body } => body.size_hint(),
            Content::Own { text } => {
                let length = text.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(length.try_into().unwrap_or(u64::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    #[tokio::test]
    async fn both_kinds_say_their_length_and_end() {
        let own: LimitBody<Full<Bytes>> = LimitBody::own("refused");
        let passed = LimitBody::passed(Full::new(Bytes::from_static(b"refused")));
        for mut body in [own, passed] {
            assert_eq!(body.size_hint().exact(), Some(7));
            assert!(!body.is_end_stream());
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "refused");
            assert!(body.is_end_stream());
            assert!(body.frame().await.is_none());
        }
    }
}
