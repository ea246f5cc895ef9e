"""The worker's forerunner, as the tutorial that this project takes further builds it: its keys come from
environment variables, tweepy 3 reads the v1.1 stream, and each post is printed and put with a boto3
client made for it.

Two things are for the measurement. The feed is at FEED_HOST, in plain HTTP. And a message that is no
post is passed over: the original would end at the first.
"""

import json
import os

import boto3
import requests
import tweepy


class PlainSession(requests.Session):
    """tweepy asks for https, whatever the host."""

    def request(self, method, url, **rest):
        return super().request(method, url.replace("https://", "http://", 1), **rest)


class LocalStream(tweepy.Stream):
    def new_session(self):
        self.session = PlainSession()
        self.session.headers = self.headers
        self.session.params = None


class Rows(tweepy.StreamListener):
    def on_data(self, raw_data):
        post = json.loads(raw_data)
        if "user" not in post:
            return True
        row = {
            "user": post["user"]["screen_name"],
            "date": post["created_at"],
            "text": post["text"].encode("ascii", "ignore").decode("ascii"),
        }
        for value in row.values():
            print(value)
        table = boto3.client("dynamodb", os.environ["AWSREGION"])
        item = {name: {"S": value} for name, value in row.items()}
        table.put_item(TableName=os.environ["DYNAMODBTABLE"], Item=item)
        return True

    def on_error(self, status_code):
        print(status_code)


def main():
    auth = tweepy.OAuthHandler(os.environ["CONSUMERKEY"], os.environ["CONSUMERSECRETKEY"])
    auth.set_access_token(os.environ["ACCESSTOKEN"], os.environ["ACCESSTOKENSECRET"])
    stream = LocalStream(auth, Rows(), host=os.environ["FEED_HOST"])
    stream.filter(track=[os.environ["FILTER"]])


if __name__ == "__main__":
    main()
