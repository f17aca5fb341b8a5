// Requests and responses as JSON schemas, with which Fastify validates and serializes.
const uuid = { type: "string", format: "uuid" };
const moment = { type: "string" };

const product = {
  type: "object",
  properties: {
    id: uuid,
    sku: { type: "string" },
    name: { type: "string" },
    description: { type: "string" },
    category_id: { type: "string", nullable: true },
    price: {
      type: "object",
      properties: { currency_code: { type: "string" }, amount_minor: { type: "integer" } },
    },
    status: { type: "string" },
    available: { type: "integer" },
    in_stock: { type: "boolean" },
    image_urls: { type: "array", items: { type: "string" } },
    created_at: moment,
    updated_at: moment,
  },
};

const meta = {
  type: "object",
  properties: { total: { type: "integer" }, page: { type: "integer" }, limit: { type: "integer" } },
};

export const getProduct = {
  params: { type: "object", properties: { id: uuid } },
  response: { 200: product },
};

export const listProducts = {
  querystring: {
    type: "object",
    properties: {
      page: { type: "integer", minimum: 1, default: 1 },
      limit: { type: "integer", minimum: 1, maximum: 100, default: 20 },
    },
  },
  response: { 200: { type: "object", properties: { data: { type: "array", items: product }, meta } } },
};

export const placeOrder = {
  body: {
    type: "object",
    required: ["lines"],
    properties: {
      lines: {
        type: "array",
        minItems: 1,
        maxItems: 100,
        items: {
          type: "object",
          required: ["product_id", "quantity"],
          properties: { product_id: uuid, quantity: { type: "integer", minimum: 1, maximum: 100000 } },
        },
      },
    },
  },
  response: {
    201: {
      type: "object",
      properties: { id: uuid, total: { type: "integer" }, status: { type: "string" } },
    },
  },
};

export const credentials = {
  body: {
    type: "object",
    required: ["email", "password"],
    properties: {
      email: { type: "string", maxLength: 254 },
      password: { type: "string", minLength: 8, maxLength: 128 },
    },
  },
};
