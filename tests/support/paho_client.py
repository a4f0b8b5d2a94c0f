"""Drives the service with Eclipse Paho:
python3 paho_client.py HOST PORT VERSION (4 or 5) PROTOCOL (mqtt, mqtts, ws or wss) CA_FILE."""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PROTOCOL, CA_FILE = sys.argv[4:]
TRANSPORT = "websockets" if PROTOCOL.startswith("ws") else "tcp"
IS_FIVE = VERSION == 5
PATIENCE_S = 20


class Device:
    """A client whose events can be waited for."""

    def __init__(self, name="", kept=False, will=None):
        self.messages = queue.Queue()
        self.events = queue.Queue()
        self.kept = kept
        if IS_FIVE:
            self.client = mqtt.Client(name, protocol=mqtt.MQTTv5, transport=TRANSPORT)
        else:
            self.client = mqtt.Client(
                name, clean_session=not kept, protocol=mqtt.MQTTv311, transport=TRANSPORT
            )
        if PROTOCOL in ("mqtts", "wss"):
            self.client.tls_set(CA_FILE)
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_subscribe = lambda client, data, mid, granted, *_: self.events.put(granted)
        self.client.on_disconnect = lambda *_: self.events.put("closed")
        if will is not None:
            self.client.will_set(will, "gone", qos=1)

    def _on_connect(self, client, data, flags, code, *_):
        self.events.put((int(getattr(code, "value", code)), bool(flags["session present"])))

    def connect(self):
        options = {}
        if IS_FIVE:
            properties = Properties(PacketTypes.CONNECT)
            if self.kept:
                properties.SessionExpiryInterval = 600
            options = {"clean_start": not self.kept, "properties": properties}
        self.client.connect(HOST, PORT, 30, **options)
        self.client.loop_start()
        code, present = self.events.get(timeout=PATIENCE_S)
        assert code == 0, code
        return present

    def subscribe(self, *args, **more):
        self.client.subscribe(*args, **more)
        return [int(getattr(code, "value", code)) for code in self.events.get(timeout=PATIENCE_S)]

    def publish(self, topic, payload, **more):
        self.client.publish(topic, payload, **more).wait_for_publish(PATIENCE_S)

    def take(self):
        return self.messages.get(timeout=PATIENCE_S)

    def disconnect(self):
        self.client.disconnect()
        while self.events.get(timeout=PATIENCE_S) != "closed":
            pass
        self.client.loop_stop()

    def cut(self):
        """The network fails."""
        self.client.loop_stop()
        self.client._sock_close()


def exchanges():
    subscriber, publisher = Device(), Device()
    subscriber.connect()
    publisher.connect()
    assert subscriber.subscribe([("p/+/0", 0), ("p/+/1", 1), ("p/#", 2)]) == [0, 1, 2]
    for number in range(30):
        publisher.publish(f"p/{number}/{number % 3}", str(number), qos=number % 3)
    got = [subscriber.take() for _ in range(30)]
    assert sorted(int(message.payload) for message in got) == list(range(30))
    assert all(message.qos == int(message.payload) % 3 for message in got)
    subscriber.disconnect()
    publisher.disconnect()


def sessions():
    device, publisher = Device("paho-kept", kept=True), Device()
    publisher.connect()
    assert device.connect() is False
    device.subscribe("s", 2)
    device.disconnect()
    for number in range(10):
        publisher.publish("s", str(number), qos=1 + number % 2)
    again = Device("paho-kept", kept=True)
    assert again.connect() is True
    got = [again.take() for _ in range(10)]
    for qos in (1, 2):  # Paho hands on a QoS 2 message with its PUBREL
        numbers = [int(message.payload) for message in got if message.qos == qos]
        assert numbers == list(range(qos - 1, 10, 2)), numbers
    again.disconnect()
    publisher.disconnect()


def wills_and_retained():
    watch = Device()
    watch.connect()
    watch.publish("r", "kept", qos=1, retain=True)
    watch.subscribe([("w", 1), ("r", 1)])
    message = watch.take()
    assert (message.topic, message.payload, message.retain) == ("r", b"kept", 1)
    lost = Device(will="w")
    lost.connect()
    lost.cut()
    assert watch.take().payload == b"gone"
    watch.disconnect()


def properties_of_five():
    device, publisher = Device(), Device()
    device.connect()
    publisher.connect()
    identified = Properties(PacketTypes.SUBSCRIBE)
    identified.SubscriptionIdentifier = 7
    options = SubscribeOptions(qos=1, retainAsPublished=True)
    assert device.subscribe("v5", options=options, properties=identified) == [1]
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers"
    sent.CorrelationData = b"\x00\xff"
    sent.UserProperty = [("a", "1"), ("b", "2"), ("a", "3")]
    sent.MessageExpiryInterval = 100
    sent.PayloadFormatIndicator = 1
    sent.TopicAlias = 3
    publisher.publish("v5", "m", qos=1, retain=True, properties=sent)
    got = device.take()
    assert got.retain == 1
    assert got.properties.SubscriptionIdentifier == [7]
    assert got.properties.UserProperty == sent.UserProperty
    for name in ("ContentType", "ResponseTopic", "CorrelationData", "PayloadFormatIndicator"):
        assert getattr(got.properties, name) == getattr(sent, name), name
    assert 90 <= got.properties.MessageExpiryInterval <= 100
    own = SubscribeOptions(qos=1, noLocal=True)
    assert publisher.subscribe("local", options=own) == [1]
    publisher.publish("local", "own", qos=1)
    device.publish("local", "other", qos=1)
    assert publisher.take().payload == b"other"
    device.disconnect()
    publisher.disconnect()


def shared():
    members, publisher = [Device(), Device()], Device()
    publisher.connect()
    for member in members:
        member.connect()
        assert member.subscribe("$share/paho/j", 1) == [1]
    for number in range(20):
        publisher.publish("j", str(number), qos=1)
    got = [int(member.take().payload) for member in members for _ in range(10)]
    assert sorted(got) == list(range(20))
    for device in [*members, publisher]:
        device.disconnect()


exchanges()
sessions()
wills_and_retained()
shared()
if IS_FIVE:
    properties_of_five()
print("done")
